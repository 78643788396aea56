"""Putting loaded tensors and weights where the model keeps them."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from quantload.errors import CheckpointError
from quantload.loading.device_map import DISK
from quantload.loading.plan import Plan
from quantload.loading.skeleton import get_tensor, set_tensor
from quantload.weights.packed import PackedWeight

logger = logging.getLogger(__name__)


def place_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Make a loaded tensor the parameter or buffer of that name.

    It is marked as initialised, so that `transformers` leaves it as it is.
    """
    held = set_tensor(model, name, tensor)
    held._is_hf_initialized = True  # type: ignore[attr-defined]  # read by transformers


def place_weight(model: nn.Module, name: str, weight: PackedWeight) -> None:
    """Give the host of that name its packed weight.

    Raises:
        CheckpointError: it has another shape than the host.
    """
    expected = _weight(model, name).shape
    if tuple(weight.shape) != tuple(expected):
        raise CheckpointError(
            f"{name}: the weight was packed with shape {list(weight.shape)}, expected "
            f"{list(expected)}"
        )
    model.get_submodule(name)._modules["weight"] = weight


def tie(model: nn.Module, plan: Plan) -> None:
    """Make shared tensors and weights one object, and equal ones that are tied too."""
    for name, owner in plan.sharing.tensors.items():
        set_tensor(model, name, get_tensor(model, owner))
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
        one, other = get_tensor(model, name), get_tensor(model, owner)
        same = _equal({"": one}, {"": other})
        if same:
            set_tensor(model, name, other)
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
