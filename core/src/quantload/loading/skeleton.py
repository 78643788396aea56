"""The model on the meta device: putting hosts in, and taking everything back on failure."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantload.errors import UnsupportedOperationError
from quantload.modules import host_for, set_module
from quantload.quantizers.spec import ModuleKind, ModuleSpec
from quantload.quantizers.targets import logical_shape, module_kind
from quantload.weights.packed import PackedWeight

_CONTAINERS = ("_parameters", "_buffers", "_modules")


class Snapshot:
    """What every module of a model holds, to be put back where a load fails."""

    def __init__(self, model: nn.Module) -> None:
        self._held = [
            (
                module,
                dict(module.__dict__),
                {k: dict(v) for k, v in module.__dict__.items() if k in _CONTAINERS},
                {k: list(v) for k, v in module.__dict__.items() if type(v) is list},
            )
            for module in model.modules()
        ]

    def restore(self) -> None:
        """Every module as it was, hooks and all; what was loaded is let go."""
        for module, attributes, containers, lists in self._held:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for kind, content in containers.items():
                module.__dict__[kind].clear()
                module.__dict__[kind].update(content)
            for name, items in lists.items():
                module.__dict__[name][:] = items


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a checkpoint of the model may hold, by each of its names."""
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, PackedWeight):
            continue
        start = f"{prefix}." if prefix else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found[start + name] = parameter
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                found[start + name] = buffer
    return found


def get_tensor(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its full name."""
    prefix, _, leaf = name.rpartition(".")
    module = model.get_submodule(prefix)
    found = module._parameters.get(leaf)
    if found is None:
        found = module._buffers.get(leaf)  # type: ignore[assignment]  # a Tensor, then
    assert found is not None
    return found


def set_tensor(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Make a tensor the parameter or buffer of that name; a `Parameter` as it is.

    It is set as an attribute, for some modules (`nn.LSTM`) keep a list of their own.

    Returns:
        What the module now holds.
    """
    prefix, _, leaf = name.rpartition(".")
    module = model.get_submodule(prefix)
    if leaf in module._parameters and not isinstance(tensor, nn.Parameter):
        before = module._parameters[leaf]
        trains = (before is None or before.requires_grad) and tensor.is_floating_point()
        tensor = nn.Parameter(tensor, requires_grad=trains)
    setattr(module, leaf, tensor)
    return tensor


def describe(model: nn.Module, spec: ModuleSpec, name: str, dtype: torch.dtype) -> ModuleSpec:
    """A spec completed by what the module that it is for shows.

    Raises:
        UnsupportedOperationError: no host exists for such a module.
    """
    module = model.get_submodule(name)
    kind: ModuleKind | None = module_kind(module)
    if kind is None and isinstance(module, nn.Embedding):
        kind = "embedding"
    if kind is None and isinstance(module, nn.Linear):
        kind = "linear"
    own = module._parameters.get("weight")
    if kind is None and own is not None and own.ndim == 2:
        kind = "matrix"
    if kind is None:
        raise UnsupportedOperationError(
            f"{name}: the checkpoint holds a packed weight for it, and a "
            f"{type(module).__name__} cannot host one (linear layers and embeddings can)"
        )
    shape = logical_shape(module, kind)
    return spec.replace(name=name, kind=kind, shape=shape, dtype=dtype)


def put_hosts(model: nn.Module, specs: Mapping[str, ModuleSpec], shared: Mapping[str, str]) -> None:
    """Give modules that share a packed weight their hosts, beside those of its owner.

    Args:
        model: the skeleton, whose owners are hosted already.
        specs: module -> spec, of the sharing modules.
        shared: module -> the module whose packed weight it takes.
    """
    for name, owner in shared.items():
        weight = model.get_submodule(owner).weight
        host = host_for(specs[name], weight, model.get_submodule(name))  # type: ignore[arg-type]
        set_module(model, name, host)
