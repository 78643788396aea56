"""Experts whose weights lie in one tensor: those that a token chose run without asking which.

Running one expert after the other needs their numbers on the host, which a compiled graph
and a CUDA graph cannot give. Where the weights of all experts are alike and their kernel
can be told on the device which of them to use (`Kernel.groups`), their storage is moved
into one tensor for each part of it, of which that of every expert becomes a view. So there
is still one copy, and every expert is still a layer of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quantload.modules.linear import QuantizedLinear
from quantload.weights.packed import PackedWeight, frozen

if TYPE_CHECKING:
    from quantload.kernels.contract import Kernel
    from quantload.modules.experts import QuantizedExperts

MOST = 16
"""Choices of all tokens up to which they run as a group; beyond, experts share rows."""


@dataclass(frozen=True)
class Group:
    """The same layer of every expert.

    Attributes:
        weight: that of the first expert, for what all have in common.
        stacks: name -> the storage of all, `[experts, ...]`.
        kernel: runs them.
        members: the weight of every expert.
        views: name -> its part of the stack, of every expert.
    """

    weight: PackedWeight
    stacks: Mapping[str, Tensor]
    kernel: Kernel
    members: tuple[PackedWeight, ...]
    views: tuple[Mapping[str, nn.Parameter], ...]

    def linear(self, x: Tensor, chosen: Tensor) -> Tensor:
        """Row `i` of `x` times the weight of expert `chosen[i]`, in the dtype of `x`."""
        wanted = self.weight.dtype
        inner = x if x.dtype == wanted else x.to(wanted)
        y = self.kernel.linear_chosen(self.weight, self.stacks, inner, chosen)
        return y if y.dtype == x.dtype else y.to(x.dtype)


def grouped(experts: QuantizedExperts) -> dict[str, Group] | None:
    """A group for each layer, and the experts' storage made parts of them; None if it cannot be.

    Args:
        experts: complete, with a kernel for each weight; their parameters change.
    """
    parts = (*experts.layout.parts, experts.layout.last)
    found: dict[str, tuple[PackedWeight, ...]] = {}
    for part in parts:
        weights = [_weight(experts, number, part) for number in range(experts.num_experts)]
        first = weights[0]
        if first is None or not all(w is not None and _alike(first, w) for w in weights):
            return None
        found[part] = tuple(w for w in weights if w is not None)
    return {part: _stacked(weights) for part, weights in found.items()}


def still(experts: QuantizedExperts, groups: Mapping[str, Group]) -> bool:
    """Whether the layers of the experts are those whose storage was put together."""
    for part, group in groups.items():
        for number, (member, views) in enumerate(zip(group.members, group.views, strict=True)):
            if _weight(experts, number, part) is not member or member.kernel is not group.kernel:
                return False
            if any(member._parameters.get(name) is not view for name, view in views.items()):
                return False
    return True


def run(
    experts: QuantizedExperts,
    groups: Mapping[str, Group],
    x: Tensor,
    chosen: Tensor,
    weights: Tensor,
) -> Tensor:
    """See `QuantizedExperts.forward`. Each choice is a row; sums are as `routing.run` makes them.

    Args:
        experts: what holds them.
        groups: their layers.
        x: `[tokens, features]`.
        chosen: int64 `[tokens, choices]`.
        weights: `[tokens, choices]`.
    """
    tokens, choices = chosen.shape
    chosen, order = chosen.sort(dim=-1, stable=True)  # in the order of the experts
    weights = weights.gather(-1, order)
    away = chosen >= experts.num_experts
    numbers = chosen.clamp(max=experts.num_experts - 1).reshape(-1)
    rows = x.unsqueeze(1).expand(-1, choices, -1).reshape(tokens * choices, -1)
    given = experts.between(
        lambda part, inner: groups[part].linear(inner, numbers),
        lambda name: experts.bias(name)[numbers],
        rows,
    )
    given = (given * weights.reshape(-1, 1)).to(x).view(tokens, choices, -1)
    given = given.masked_fill(away.unsqueeze(-1), 0)
    result = torch.zeros_like(x)
    for choice in range(choices):
        result = result + given[:, choice]
    return result


def _weight(experts: QuantizedExperts, number: int, part: str) -> PackedWeight | None:
    """The weight of a layer that is nothing but a host."""
    expert = experts._modules.get(str(number))
    host = None if expert is None else expert._modules.get(part)
    if type(host) is not QuantizedLinear or host._parameters.get("bias") is not None:
        return None
    if host._forward_hooks or host._forward_pre_hooks or "forward" in vars(host):
        return None  # somebody looks at it, or brings its bytes when it runs
    weight = host._modules.get("weight")
    return weight if isinstance(weight, PackedWeight) else None


def _alike(one: PackedWeight, other: PackedWeight) -> bool:
    kernel = one.kernel
    if kernel is None or other.kernel is not kernel or not kernel.groups or one.is_meta:
        return False
    if not (one.arranged and other.arranged):  # what is saved must not share its storage
        return False
    mine, theirs = one.storage(), other.storage()
    return (
        type(one) is type(other)
        and one.dtype == other.dtype
        and one.shape == other.shape
        and dict(one.kernel_params()) == dict(other.kernel_params())
        and mine.keys() == theirs.keys()
        and all(_form(mine[name]) == _form(theirs[name]) for name in mine)
    )


def _form(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.dtype, tensor.device


def _stacked(weights: tuple[PackedWeight, ...]) -> Group:
    first, kernel = weights[0], weights[0].kernel
    assert kernel is not None
    stacks: dict[str, Tensor] = {}
    views: list[dict[str, nn.Parameter]] = [{} for _ in weights]
    for name in first.storage():
        stacks[name] = torch.stack([weight.storage()[name] for weight in weights])
        for weight, own, view in zip(weights, views, stacks[name], strict=True):
            own[name] = weight._parameters[name] = frozen(view)
    return Group(first, stacks, kernel, weights, tuple(views))
