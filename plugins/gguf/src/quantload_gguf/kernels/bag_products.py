"""The products of `BagsKernel`, as an operator that `torch.compile` takes whole."""

from __future__ import annotations

import torch
from torch import Tensor

from quantload.weights import bags

FEW_ROWS = {
    (2, torch.bfloat16): 3,
    (2, torch.float16): 4,
    (2, torch.float32): 4,
    (4, torch.bfloat16): 3,
    (4, torch.float16): 4,
    (4, torch.float32): 4,
    (8, torch.bfloat16): 8,
    (8, torch.float16): 8,
    (8, torch.float32): 8,
}
"""Up to so many rows of input codes are summed as they are, by the bits of a code in the
table and the dtype. Measured by benchmarks/gguf_products.py on two cores with AVX-512."""

torch.library.define(
    "quantload_gguf::bags_linear",
    "(Tensor x, Tensor table, Tensor outer, Tensor? inner, Tensor? outer_added, "
    "Tensor? inner_added, Tensor starts, int bits, int middle, int rows) -> Tensor",
)


def bags_linear(
    x: Tensor,
    table: Tensor,
    outer: Tensor,
    inner: Tensor | None,
    outer_added: Tensor | None,
    inner_added: Tensor | None,
    starts: Tensor,
    bits: int,
    middle: int,
    rows: int,
) -> Tensor:
    """`x @ W.T` in `x.dtype`, for a weight that `BagsKernel.arrange` arranged.

    Args:
        x: float `[n, columns]`.
        table: see `quantload.weights.bags.pack`.
        outer: float16 `[blocks, outer groups, width]`; see `levels` for this and the next.
        inner: (u)int8 `[blocks, groups, width]` or None.
        outer_added: as `outer`, or None.
        inner_added: as `inner`, or None.
        starts: int32 `[groups]`, the first column of each.
        bits: of a code in the table.
        middle: the code that counts as 0.
        rows: of the weight.
    """
    if not x.numel():
        return x.new_zeros(x.shape[0], rows)
    if x.shape[0] <= FEW_ROWS.get((bits, x.dtype), 0):
        found = bags.sums(x, table, bits, starts)
        total = _inside(found, inner, outer).mul_(outer.float()[:, None]).sum(2)
        if outer_added is not None:
            totals = bags.group_sums(x, starts, x.shape[1] // len(starts))[None, :, :, None]
            if inner_added is None:
                added = totals
            else:
                added = _inside(totals * inner_added.float()[:, None], None, outer_added)
            total += (added * outer_added.float()[:, None]).sum(2)
        return bags.in_order(total, bits, rows).to(x.dtype)
    wide = x.float() if x.dtype == torch.float16 else x
    out = x.new_empty(x.shape[0], rows)

    def scaling(part: slice) -> tuple[Tensor, Tensor]:
        scale = _combined(outer[part], None if inner is None else inner[part])
        if outer_added is None:
            return scale, scale * -middle
        least = None if inner_added is None else inner_added[part]
        return scale, _combined(outer_added[part], least)

    shape = (rows, x.shape[1])
    for some, decoded in bags.decoded(table, bits, shape, wide.dtype, scaling):
        out[:, some] = wide @ decoded
    return out


def _inside(sums: Tensor, inner: Tensor | None, outer: Tensor) -> Tensor:
    """Sums over the groups inside of an outer one, `[blocks, m, outer groups, width]`."""
    if inner is not None:
        sums = sums.mul_(inner.float()[:, None])
    if sums.shape[2] == outer.shape[1]:
        return sums
    return sums.view(*sums.shape[:2], outer.shape[1], -1, sums.shape[3]).sum(3)


def _combined(outer: Tensor, inner: Tensor | None) -> Tensor:
    wide = outer.float()
    if inner is None:
        return wide
    groups = inner.float().view(*outer.shape[:2], -1, outer.shape[2])
    return (groups * wide[:, :, None]).view(inner.shape)


def _fake(
    x: Tensor,
    table: Tensor,  # noqa: ARG001  the signature is the operator's
    outer: Tensor,  # noqa: ARG001  likewise
    inner: Tensor | None,  # noqa: ARG001  likewise
    outer_added: Tensor | None,  # noqa: ARG001  likewise
    inner_added: Tensor | None,  # noqa: ARG001  likewise
    starts: Tensor,  # noqa: ARG001  likewise
    bits: int,  # noqa: ARG001  likewise
    middle: int,  # noqa: ARG001  likewise
    rows: int,
) -> Tensor:
    return x.new_empty(x.shape[0], rows)


torch.library.impl("quantload_gguf::bags_linear", "cpu", bags_linear)
torch.library.register_fake("quantload_gguf::bags_linear", _fake)
