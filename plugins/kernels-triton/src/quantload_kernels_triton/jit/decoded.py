"""The weight in float, for a product by other means."""

from __future__ import annotations

import triton
import triton.language as tl

from quantload_kernels_triton.jit.many_rows import weights_of


@triton.jit(do_not_specialize=["out_rows", "tiles", "units", "groups"])
def decoded(
    words,
    scales,
    zeros,
    segments,
    out,
    columns,
    out_rows,
    tiles,
    units,
    groups,
    BITS: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP: tl.constexpr,
    RUN: tl.constexpr,
    LISTED: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    TABLE: tl.constexpr,
    SCALING: tl.constexpr,
    MASKED: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    W: tl.constexpr,
    DT: tl.constexpr,
    PTX: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Writes `W` `[out_rows, columns]`, columns sorted: program `(i, j)` its tile.

    `W` warps stand side by side. `tiles` must be a multiple of `R`.
    """
    first = tl.program_id(1) * R
    unit = tl.program_id(0) * (U * W)
    OUT: tl.constexpr = out.dtype.element_ty
    weights = weights_of(
        words,
        scales,
        zeros,
        segments,
        first,
        unit,
        columns,
        tiles,
        units,
        groups,
        BITS,
        UNIT,
        GROUP,
        RUN,
        LISTED,
        SYMMETRIC,
        TABLE,
        SCALING,
        False,
        MASKED,
        R,
        U,
        W,
        DT,
        OUT,
        PTX,
        FIRST,
    )
    weights = tl.permute(weights, (0, 2, 3, 1, 4, 5))  # R r8 g W U column
    weights = tl.reshape(weights, (R * 16, W * U * UNIT))
    row = first * 16 + tl.arange(0, R * 16)
    column = unit * UNIT + tl.arange(0, W * U * UNIT)
    where = out + row.to(tl.int64)[:, None] * columns + column[None, :]
    mask = (row < out_rows)[:, None] & (column < columns)[None, :]
    tl.store(where, weights, mask=mask)
