"""Sending tokens to experts, outside of graphs that are compiled.

A module of its own: `torch.compiler.disable` imports the compiler, which takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from quantload.modules.experts import QuantizedExperts


# Which experts run is known only when they do.
@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch's own
def run(experts: QuantizedExperts, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """See `QuantizedExperts.forward`. Sums are in the order and dtype of the classes' own loops.

    Args:
        experts: what holds them.
        x: `[tokens, features]`.
        chosen: int64 `[tokens, choices]`.
        weights: `[tokens, choices]`.
    """
    experts.check_group()
    tokens = chosen.shape[0]
    if tokens == 1:
        return _one_token(experts, x, chosen[0].tolist(), weights)
    flat = chosen.t().reshape(-1)
    counts = torch.bincount(flat, minlength=experts.num_experts).tolist()
    order = flat.argsort(stable=True)
    result = torch.zeros_like(x)
    start = 0
    for number, count in enumerate(counts[: experts.num_experts]):
        if not count:
            continue
        places = order[start : start + count]
        start += count
        if not _held(experts, number):
            continue
        rows = places % tokens
        given = experts.expert(number, x[rows])
        given = given * weights[rows, places // tokens, None]
        result.index_add_(0, rows, given.to(result))
    return result


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch's own
def run_blocks(experts: QuantizedExperts, x: Tensor) -> Tensor:
    """See `QuantizedExperts.forward`: of zeros an expert without biases makes zeros.

    Args:
        experts: what holds them.
        x: `[experts * tokens, features]`, the tokens of one expert after those of another.
    """
    tokens = x.shape[0] // experts.num_experts
    used = x.view(experts.num_experts, tokens, x.shape[-1]).any(-1)
    result = torch.zeros_like(x)
    for number, count in enumerate(used.sum(1).tolist()):
        if count and _held(experts, number):
            rows = number * tokens + used[number].nonzero()[:, 0]
            result = result.index_copy(0, rows, experts.expert(number, x[rows]).to(result))
    return result


def _one_token(experts: QuantizedExperts, x: Tensor, chosen: list[int], weights: Tensor) -> Tensor:
    """The same sum, in the same order, without sorting: decoding does nothing else."""
    result = torch.zeros_like(x)
    for number, place in sorted((number, place) for place, number in enumerate(chosen)):
        if number < experts.num_experts and _held(experts, number):
            given = experts.expert(number, x) * weights[:, place, None]
            result += given.to(result)
    return result


def _held(experts: QuantizedExperts, number: int) -> bool:
    """Whether this process has an expert."""
    return experts.own is None or number in experts.own
