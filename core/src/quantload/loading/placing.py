"""Putting loaded tensors and weights where the model keeps them."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from quantload.errors import CheckpointError
from quantload.loading.device_map import DISK
from quantload.loading.plan import Plan
from quantload.weights.packed import PackedWeight

logger = logging.getLogger(__name__)


def place_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Make a loaded tensor the parameter or buffer of that name.

    It is marked as initialised, so that `transformers` leaves it as it is.
    """
    prefix, _, leaf = name.rpartition(".")
    module = model.get_submodule(prefix)
    if leaf in module._parameters:
        before = module._parameters[leaf]
        trains = before is None or before.requires_grad
        tensor = nn.Parameter(tensor, requires_grad=trains and tensor.is_floating_point())
        module._parameters[leaf] = tensor
    else:
        module._buffers[leaf] = tensor
    tensor._is_hf_initialized = True  # type: ignore[attr-defined]  # read by transformers


def place_weight(model: nn.Module, name: str, weight: PackedWeight) -> None:
    """Give the host of that name its packed weight."""
    host = model.get_submodule(name)
    expected = host.weight
    if tuple(weight.shape) != tuple(expected.shape):  # type: ignore[arg-type]  # a PackedWeight
        raise CheckpointError(
            f"{name}: the weight was packed with shape {list(weight.shape)}, expected "
            f"{list(expected.shape)}"  # type: ignore[arg-type]
        )
    host._modules["weight"] = weight


def tie(model: nn.Module, plan: Plan) -> None:
    """Make shared tensors and weights one object, and equal ones that are tied too."""
    for name, owner in plan.sharing.tensors.items():
        _set_parameter(model, name, _get_parameter(model, owner))
    for name, owner in plan.sharing.modules.items():
        model.get_submodule(name)._modules["weight"] = model.get_submodule(owner)._modules["weight"]
    for name, owner in plan.ties.doubled:
        _tie_if_equal(model, plan, name, owner)


def _tie_if_equal(model: nn.Module, plan: Plan, name: str, owner: str) -> None:
    if plan.device_map.place(name) != plan.device_map.place(owner):
        return
    if DISK in (plan.device_map.place(name), plan.device_map.place(owner)):
        return  # each is read where it is used
    module, own = name.removesuffix(".weight"), owner.removesuffix(".weight")
    if module in plan.specs:
        first, second = _weight(model, module), _weight(model, own)
        same = type(first) is type(second) and _equal(first.storage(), second.storage())
        if same:
            model.get_submodule(module)._modules["weight"] = second
            plan.sharing.forget.update((name, owner))
    else:
        one, other = _get_parameter(model, name), _get_parameter(model, owner)
        same = _equal({"": one}, {"": other})
        if same:
            _set_parameter(model, name, other)
    if not same:
        plan.report.untied[name, owner] = "the checkpoint holds both and they differ"
        plan.sharing.forget.add(name)


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    if one.keys() != other.keys():
        return False
    return all(
        tensor.dtype == other[key].dtype and torch.equal(tensor, other[key])
        for key, tensor in one.items()
    )


def _weight(model: nn.Module, name: str) -> PackedWeight:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, PackedWeight)
    return weight


def _get_parameter(model: nn.Module, name: str) -> Tensor:
    prefix, _, leaf = name.rpartition(".")
    module = model.get_submodule(prefix)
    found = module._parameters.get(leaf)
    if found is None:
        found = module._buffers[leaf]
    assert found is not None
    return found


def _set_parameter(model: nn.Module, name: str, tensor: Tensor) -> None:
    prefix, _, leaf = name.rpartition(".")
    module = model.get_submodule(prefix)
    if leaf in module._parameters:
        module._parameters[leaf] = tensor  # type: ignore[assignment]  # a Parameter, as it was
    else:
        module._buffers[leaf] = tensor
