"""The product for few rows of activations: every word read once, nothing shared.

The warps of a program have the same tiles and split the columns. Each multiplies its
own units on the tensor cores (a batch of products, one a warp) into sums of its own;
these are added once at the end, always in the same order. Words go straight into the
registers of the operand, 16 bytes a lane. Scales multiply the sums of a group, in
float32, and offsets those of its activations.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantload_kernels_triton.jit.fields import codes_minus_zero, prepared_zero
from quantload_kernels_triton.jit.groups import (
    group_of,
    load_offsets,
    load_scales,
    load_zeros,
    spread_rows,
)
from quantload_kernels_triton.jit.loads import load_activations, load_packed, load_words
from quantload_kernels_triton.jit.pack import wait_for_last
from quantload_kernels_triton.jit.tables import looked_up


@triton.jit
def _add_units(
    sums,
    low,
    lower,
    high,
    x,
    x_stride,
    scales,
    zeros,
    segments,
    first,
    unit,
    rows,
    columns,
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
    PACKED: tl.constexpr,
    MASKED: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    N8: tl.constexpr,
    W: tl.constexpr,
    DT: tl.constexpr,
    PTX: tl.constexpr,
    FIRST: tl.constexpr,
):
    """`sums` and the products of `U` units a warp; `low`, `lower`, `high` are their words."""
    planes: tl.constexpr = UNIT // 16
    together: tl.constexpr = planes if U > 1 or RUN >= UNIT else RUN // 16
    adds: tl.constexpr = zeros.dtype.element_ty.is_floating()
    warp = tl.arange(0, 32 * W) // 32
    looked = ()
    if TABLE is not None:
        looked = looked_up(low, TABLE, DT, False, PTX)
    for part in tl.static_range(planes // together):
        start = (unit + warp * U) * UNIT + part * together * 16
        group = group_of(start, segments, columns, groups, GROUP, RUN, LISTED)
        scale = load_scales(scales, group, first, tiles, R, W, False, False, FIRST)
        zero = load_zeros(zeros, group, first, tiles, BITS, SYMMETRIC, R, W, False, False, FIRST)
        zero = spread_rows(prepared_zero(zero, BITS, DT, PTX), R, U, W)
        products = tl.zeros((W, R * 16, N8 * 8), tl.float32)
        totals = tl.zeros((W, R * 16, N8 * 8), tl.float32)
        added = load_offsets(zeros, scale, group, first, tiles, BITS, R, W, False, False, FIRST)
        for index in tl.static_range(together):
            if TABLE is not None:
                codes = looked[part * together + index]
            else:
                words = lower if part * together + index >= 8 else low
                codes = codes_minus_zero(words, high, zero, part * together + index, BITS, DT, PTX)
            codes = tl.permute(codes, (2, 0, 6, 3, 1, 5, 4, 7))  # W R r8 g U k8 t p
            column = unit * UNIT + (part * together + index) * 16
            if PACKED:
                right = load_packed(x, column, x_stride, UNIT, U, N8, W, FIRST)
            else:
                right = load_activations(
                    x, x_stride, column, rows, columns, units - unit, UNIT, U, N8, W, MASKED, FIRST
                )
            products = tl.dot(tl.reshape(codes, (W, R * 16, U * 16)), right, products)
            if adds:
                totals = tl.dot(tl.full((W, R * 16, U * 16), 1.0, DT), right, totals)
        sums += products * _of_sums(scale.to(tl.float32), R, N8, W)
        if adds:
            sums += totals * _of_sums(added, R, N8, W)
    return sums


@triton.jit
def _of_sums(values, R: tl.constexpr, N8: tl.constexpr, W: tl.constexpr):
    """A value for each row, `[R, W, 8, 4, 2]`, in the shape of the sums."""
    values = tl.permute(values, (1, 0, 4, 2, 3))  # W R r8 g t
    values = tl.reshape(values, (W, R * 16, 1, 4, 1))
    values = tl.broadcast_to(values, (W, R * 16, N8, 4, 2))
    return tl.reshape(values, (W, R * 16, N8 * 8))


@triton.jit(do_not_specialize=["rows", "columns", "tiles", "units", "groups"])
def few_rows(
    x,
    words,
    scales,
    zeros,
    segments,
    y,
    rows,
    columns,
    out_rows,
    x_stride,
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
    PACKED: tl.constexpr,
    MASKED: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    C: tl.constexpr,
    N8: tl.constexpr,
    W: tl.constexpr,
    OVERLAP: tl.constexpr,
    PTX: tl.constexpr,
    FIRST: tl.constexpr,
):
    """`y = x W^T` for up to `8 * N8` rows; program `i` makes the rows of `R` tiles from `i * R` on.

    `tiles` must be a multiple of `R`; `C` is how many times `U` units a warp loads ahead.
    With `PACKED`, x is what `pack_rows` wrote, and `x_stride` what an eight of rows takes;
    with `OVERLAP`, `pack_rows` may still be running. See `operators.affine_linear` for the
    tensors and `loads` for the other names.
    """
    DT: tl.constexpr = x.dtype.element_ty
    blocks: tl.constexpr = 3 if BITS == 3 else 1
    per_unit: tl.constexpr = blocks * 256
    first = tl.program_id(0) * R
    base = words + first.to(tl.int64) * units * per_unit
    per_tile = units * per_unit
    sums = tl.zeros((W, R * 16, N8 * 8), tl.float32)
    for unit in range(0, units, W * U * C):
        low = ()
        for chunk in tl.static_range(C):
            low = low + (
                load_words(
                    base + (unit + chunk * W * U) * per_unit,
                    per_tile,
                    per_unit,
                    R,
                    units - unit - chunk * W * U,
                    R,
                    U,
                    W,
                    False,
                    MASKED,
                    FIRST,
                ),
            )
        if OVERLAP:
            if unit == 0:  # by now the first words are on their way
                wait_for_last()
        for chunk in tl.static_range(C):
            lower = low[chunk]
            high = low[chunk]
            if BITS == 3:
                here = base + (unit + chunk * W * U) * per_unit
                left = units - unit - chunk * W * U
                lower = load_words(
                    here + 256, per_tile, per_unit, R, left, R, U, W, False, MASKED, FIRST
                )
                high = load_words(
                    here + 512, per_tile, per_unit, R, left, R, U, W, False, MASKED, FIRST
                )
            sums = _add_units(
                sums,
                low[chunk],
                lower,
                high,
                x,
                x_stride,
                scales,
                zeros,
                segments,
                first,
                unit + chunk * W * U,
                rows,
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
                PACKED,
                MASKED,
                R,
                U,
                N8,
                W,
                DT,
                PTX,
                FIRST,
            )
    total = tl.sum(sums, axis=0)
    row = first * 16 + tl.arange(0, R * 16)
    token = tl.arange(0, N8 * 8)
    mask = (token < rows)[:, None] & (row < out_rows)[None, :]
    where = y + token.to(tl.int64)[:, None] * out_rows + row[None, :]
    tl.store(where, tl.trans(total).to(DT), mask=mask)
