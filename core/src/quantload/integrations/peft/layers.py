"""LoRA layers that merge into a packed weight by packing the sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora.layer import Embedding, Linear
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge

from quantload.errors import UnsupportedOperationError
from quantload.modules import QuantizedEmbedding, QuantizedLinear
from quantload.weights.packed import PackedWeight

if TYPE_CHECKING:
    from torch import Tensor, nn

_OUT = "keep the adapter apart, or call quantload.dequantize(model) first and merge into floats"


class _Packing:
    """`merge` and `unmerge` for a layer over a packed weight; over a float one, PEFT's own.

    The weight that was there before the first merge is kept until it is put back, or the
    layer is gone (`merge_and_unload`).
    """

    _before: tuple[PackedWeight, Tensor | None] | None = None

    @torch.no_grad()
    def merge(self: Any, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        host = self.get_base_layer()
        if not isinstance(host.weight, PackedWeight):
            super().merge(safe_merge, adapter_names)  # type: ignore[misc]  # PEFT's, behind it
            return
        names = [
            name
            for name in check_adapters_to_merge(self, adapter_names)
            if name in self.lora_A or name in self.lora_embedding_A
        ]
        if not names:
            return
        weight = host.weight
        matrix = weight.dequantize(torch.float32)
        bias = None
        for name in names:
            matrix += self.get_delta_weight(name).to(matrix)
            if self.lora_bias[name]:
                bias = host.bias.detach().clone() if bias is None else bias
                bias += (self.lora_B[name].bias * self.scaling[name]).to(bias)
        if not torch.isfinite(matrix).all():
            raise UnsupportedOperationError(
                f"{host.origin.spec.name}: merged with {', '.join(names)}, the weight is not "
                f"finite; the adapter seems to be broken"
            )
        made = host.origin.requantize(weight, matrix)
        if self._before is None:
            own = getattr(host, "bias", None)
            self._before = (weight, None if own is None else own.detach().clone())
        host.weight = _placed_like(made, weight)
        if bias is not None:
            host.bias.data = bias
        self.merged_adapters.extend(names)

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


_CLASSES = {Linear: PackedLinear, Embedding: PackedEmbedding}


def prepare_merge(tuner: Any, original: Callable[[Any], None]) -> None:
    """What is done before anything is merged: PEFT's checks, ours, and the right classes.

    Args:
        tuner: a `LoraModel`.
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
    shared = Counter(
        id(module.weight)
        for module in model.modules()
        if isinstance(module, (QuantizedLinear, QuantizedEmbedding))
    )
    for name, layer in found:
        _check(name, layer, shared)
    _check_as_float(tuner, original, bool(found))
    for _, layer in found:
        layer.__class__ = _CLASSES.get(type(layer), type(layer))


def _packed(layer: nn.Module) -> bool:
    return isinstance(getattr(layer, "weight", None), PackedWeight)


def _check(name: str, layer: Any, shared: Counter[int]) -> None:
    host = layer.get_base_layer()
    kind = type(layer)
    if kind not in _CLASSES and kind not in _CLASSES.values():
        raise UnsupportedOperationError(
            f"{name}: an adapter of {kind.__module__}.{kind.__name__} cannot be merged into a "
            f"packed weight (plain LoRA can); {_OUT}"
        )
    if layer.lora_variant:
        variants = sorted({type(variant).__name__ for variant in layer.lora_variant.values()})
        raise UnsupportedOperationError(
            f"{name}: {', '.join(variants)} cannot be merged into a packed weight (plain LoRA "
            f"can); {_OUT}"
        )
    if any(layer.lora_bias.values()) and getattr(host, "bias", None) is None:
        raise UnsupportedOperationError(
            f"{name}: the adapter has a bias (lora_bias) and the layer has none to merge it into"
        )
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
