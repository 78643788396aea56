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
    tokens = chosen.shape[0]
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
        if experts.own is not None and number not in experts.own:
            continue
        rows = places % tokens
        given = experts.expert(number, x if tokens == 1 else x[rows])
        given = given * weights[rows, places // tokens, None]
        result.index_add_(0, rows, given.to(result))
    return result
