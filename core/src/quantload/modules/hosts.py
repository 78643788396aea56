"""Putting hosts into a model, finding them, and taking them out again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from quantload.errors import UnsupportedOperationError
from quantload.modules.embedding import QuantizedEmbedding
from quantload.modules.experts import QuantizedExperts
from quantload.modules.linear import QuantizedLinear
from quantload.modules.origin import Origin
from quantload.quantizers.spec import ModuleSpec
from quantload.weights.packed import PackedWeight

if TYPE_CHECKING:
    from quantload.quantizers.weight import WeightQuantizer

Host = QuantizedLinear | QuantizedEmbedding


def host_for(
    spec: ModuleSpec,
    weight: PackedWeight,
    module: nn.Module,
    quantizer: WeightQuantizer | None = None,
) -> Host:
    """A host for `weight` that takes the place of `module`, whose bias it takes over.

    Args:
        spec: how the module is packed.
        weight: what it hosts.
        module: what was there; its own tensors are not kept.
        quantizer: the method, for what gives the host new numbers later; None where
            that is refused.

    Raises:
        UnsupportedOperationError: there is no host for such a module yet.
    """
    origin = None if quantizer is None else Origin(quantizer, spec)
    if spec.kind in ("linear", "conv1d"):
        bias = getattr(module, "bias", None)
        return QuantizedLinear(weight, bias, _emptied(module), origin)
    if spec.kind == "embedding":
        return QuantizedEmbedding(weight, _emptied(module), origin)
    if spec.kind == "matrix":
        del module._parameters["weight"]
        module.add_module("weight", weight)  # which F.linear takes
        return cast("Host", module)
    raise UnsupportedOperationError(
        f"{spec.name}: a quantized module of kind {spec.kind!r} cannot be hosted yet"
    )


def _emptied(module: nn.Module) -> nn.Module:
    module._parameters["weight"] = None
    if "bias" in module._parameters:
        module._parameters["bias"] = None
    return module


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where `name` says."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def hosts_of(model: nn.Module) -> Iterator[tuple[str, Host]]:
    """Name and module of every host, each once."""
    for name, module in model.named_modules():
        if isinstance(module._modules.get("weight"), PackedWeight):
            yield name, cast("Host", module)


def group_experts(model: nn.Module) -> None:
    """Let the weights of experts lie together where they can; see `QuantizedExperts.group`."""
    for module in model.modules():
        if isinstance(module, QuantizedExperts):
            module.group()


def dequantize_hosts(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Replace every host by the float module it stands for; weights shared stay shared.

    Args:
        model: changed in place and returned (or, where the model itself is a host,
            the float module in its place).
        dtype: of the float weights; their compute dtypes where None.
    """
    if isinstance(model, (QuantizedLinear, QuantizedEmbedding)):
        return model.dequantized(dtype)
    shared: dict[int, nn.Parameter] = {}
    for name, host in list(hosts_of(model)):
        key = id(host.weight)
        module = _dequantized(host, dtype)
        if key in shared and shared[key].shape == module.weight.shape:
            module.weight = shared[key]
        shared.setdefault(key, module.weight)  # type: ignore[arg-type]  # always a Parameter
        set_module(model, name, module)
    for name, experts in [(n, m) for n, m in model.named_modules() if type(m) is QuantizedExperts]:
        set_module(model, name, experts.joined(dtype))
    return model


def _dequantized(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    if isinstance(module, (QuantizedLinear, QuantizedEmbedding)):
        return module.dequantized(dtype)
    weight = module._modules.pop("weight")
    assert isinstance(weight, PackedWeight)
    matrix = nn.Parameter(weight.dequantize(dtype), requires_grad=False)
    module.register_parameter("weight", matrix)
    return module
