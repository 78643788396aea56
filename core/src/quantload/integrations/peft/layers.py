"""Adapters that merge into a packed weight by packing what PEFT makes of its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Embedding, Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from quantload.errors import UnsupportedOperationError
from quantload.modules import QuantizedEmbedding, QuantizedLinear
from quantload.weights.packed import PackedWeight

_OUT = "keep the adapter apart, or call quantload.dequantize(model) first and merge into floats"


class _Packing:
    """`merge` and `unmerge` for a layer over a packed weight; over a float one, PEFT's own.

    PEFT merges into a float32 copy, whatever the kind of adapter, and the sum is packed. The
    weight that was there before the first merge is kept until it is put back, or the layer
    is gone (`merge_and_unload`).
    """

    _before: tuple[PackedWeight, Tensor | None] | None = None

    @torch.no_grad()
    def merge(self: Any, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        host = self.get_base_layer()
        if not isinstance(host.weight, PackedWeight):
            super().merge(safe_merge, adapter_names)  # type: ignore[misc]  # PEFT's, behind it
            return
        own = getattr(host, "bias", None)
        before = host.weight, None if own is None else own.detach().clone()
        merged = list(self.merged_adapters)
        try:
            with as_float(host) as held:
                super().merge(safe_merge, adapter_names)  # type: ignore[misc]  # likewise
                matrix = held()
            new = [name for name in self.merged_adapters if name not in merged]
            if not new:
                return
            if not torch.isfinite(matrix).all():
                raise UnsupportedOperationError(
                    f"{host.origin.spec.name}: merged with {', '.join(new)}, the weight is not "
                    f"finite; the adapter seems to be broken"
                )
            repack(host, matrix)
        except BaseException:
            self.merged_adapters[:] = merged
            if before[1] is not None:
                host.bias.data = before[1]
            raise
        if self._before is None:
            self._before = before

    def unmerge(self: Any) -> None:
        host = self.get_base_layer()
        if self._before is None or not isinstance(host.weight, PackedWeight):
            super().unmerge()  # type: ignore[misc]  # PEFT's, behind it
            return
        weight, bias = self._before
        if weight.device != host.weight.device:
            weight = weight.to(host.weight.device)
        weight.set_compute_dtype(host.weight.dtype)
        host.weight = weight
        if bias is not None:
            host.bias.data = bias.to(host.bias)
        self._before = None
        self.merged_adapters.clear()


class PackedLinear(_Packing, Linear):  # type: ignore[misc]  # PEFT has no annotations
    """PEFT's `lora.Linear` over a `QuantizedLinear`."""


class PackedEmbedding(_Packing, Embedding):  # type: ignore[misc]  # PEFT has no annotations
    """PEFT's `lora.Embedding` over a `QuantizedEmbedding`."""


_CLASSES: dict[type, type] = {Linear: PackedLinear, Embedding: PackedEmbedding}


def _packing(kind: type) -> type:
    """The class that a layer of PEFT is to have over a packed weight."""
    if issubclass(kind, _Packing):
        return kind
    if kind not in _CLASSES:
        _CLASSES[kind] = type(f"Packed{kind.__name__}", (_Packing, kind), {})
    return _CLASSES[kind]


@contextmanager
def as_float(host: Any) -> Iterator[Callable[[], Tensor]]:
    """The host with a float32 parameter for a weight; afterwards it has its own again.

    Yields:
        What gives the numbers of the parameter that is there at that time.
    """
    weight: PackedWeight = host.weight
    del host.weight
    host.weight = nn.Parameter(weight.dequantize(torch.float32), requires_grad=False)
    try:
        yield lambda: host.weight.data
    finally:
        del host.weight
        host.weight = weight


def repack(host: Any, matrix: Tensor) -> None:
    """Give a host other numbers, packed as its own are."""
    weight = host.weight
    host.weight = _placed_like(host.origin.requantize(weight, matrix), weight)


def prepare_merge(tuner: Any, original: Callable[[Any], None]) -> None:
    """What is done before anything is merged: PEFT's checks, ours, and the right classes.

    Args:
        tuner: a tuner of PEFT, which has the model.
        original: its own check.

    Raises:
        UnsupportedOperationError: an adapter lies over a packed weight into which it
            cannot be merged; nothing has been merged then.
        ValueError: PEFT's own check refuses.
    """
    model: nn.Module = tuner.model
    found = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer) and _packed(layer.get_base_layer())
    ]
    hosts = (QuantizedLinear, QuantizedEmbedding)
    shared = Counter(id(module.weight) for module in model.modules() if isinstance(module, hosts))
    for name, layer in found:
        host = layer.get_base_layer()
        if any(getattr(layer, "lora_bias", {}).values()) and getattr(host, "bias", None) is None:
            raise UnsupportedOperationError(
                f"{name}: the adapter has a bias (lora_bias) and the layer has none to merge it "
                f"into"
            )
        check(name, host, shared)
    _check_as_float(tuner, original, bool(found))
    for _, layer in found:
        layer.__class__ = _packing(type(layer))


def _packed(layer: nn.Module) -> bool:
    return isinstance(getattr(layer, "weight", None), PackedWeight)


def check(name: str, host: Any, shared: Counter[int]) -> None:
    """Refuse a host whose weight cannot be given other numbers.

    Raises:
        UnsupportedOperationError: with the reason.
    """
    if host.weight.is_meta:
        raise UnsupportedOperationError(
            f"{name}: its weight is offloaded; load the model with a device_map that keeps it in "
            f"memory, then merge"
        )
    if shared[id(host.weight)] > 1:
        raise UnsupportedOperationError(
            f"{name}: its packed weight is shared with another layer, which the merge would "
            f"change too; {_OUT}"
        )
    if host.origin is None:
        raise UnsupportedOperationError(
            f"{name}: the layer does not know the method it is packed by, so it cannot be packed "
            f"anew; {_OUT}"
        )
    able = host.origin.can_requantize(host.weight)
    if not able:
        raise UnsupportedOperationError(f"{name}: {able.reason}; {_OUT}")


def _check_as_float(tuner: Any, original: Callable[[Any], None], packed: bool) -> None:
    """PEFT's own check; it refuses GPTQ by its name, for its GPTQ layers cannot merge."""
    model = tuner.model
    method = vars(model).get("quantization_method")
    if not packed or method is None:
        original(tuner)
        return
    del model.quantization_method
    try:
        original(tuner)
    finally:
        model.quantization_method = method


def _placed_like(made: PackedWeight, weight: PackedWeight) -> PackedWeight:
    """With the hook of accelerate that the weight before had, where a model is dispatched."""
    hook = getattr(weight, "_hf_hook", None)
    if hook is not None:
        from accelerate.hooks import add_hook_to_module

        add_hook_to_module(made, hook)
    return made
