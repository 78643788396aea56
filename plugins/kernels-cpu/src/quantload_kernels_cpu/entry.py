"""Where the kernels enter: nothing of LLVM is imported before the first product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from torch import Tensor

from quantload.kernels.watched import watched


def multiply(
    x: Tensor, storage: Sequence[Tensor], layout: str, sizes: Sequence[int], rows: int
) -> Tensor:
    """`product.linear`: as an operator where torch must see one, and else without its overhead."""
    if watched(x):
        from quantload_kernels_cpu.operators import linear

        found: Tensor = linear(x, storage, layout, sizes, rows)
        return found
    return _unseen()(x, storage, layout, sizes, rows)


@cache
def _unseen() -> Callable[..., Tensor]:
    from quantload_kernels_cpu.product import linear

    return linear
