"""The product for few rows of activations: every word read once.

As `jit.few_rows`: the warps of a program have the same tiles and take turns with the
columns, in *spans*. Codes are multiplied as whole numbers, and what 16 or 32 columns give
is scaled in float32. Offsets multiply the sum of the activations: of 32 columns at a time,
from a product with ones, or, where offsets have steps, of eight times 32 in one product of
the steps with sums that `pack_with_sums` made.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantload_kernels_triton.blocks.jit.fields import codes
from quantload_kernels_triton.blocks.jit.scaling import load_scales, load_steps, minima_operand
from quantload_kernels_triton.jit.loads import load_activations, load_packed, load_words
from quantload_kernels_triton.jit.pack import start_next, wait_for_last


@triton.jit
def of_sums(values, R: tl.constexpr, N8: tl.constexpr, W: tl.constexpr):
    """Values of rows `[R, W, 8, 4, 2]` in the shape of the sums."""
    values = tl.permute(values, (1, 0, 4, 2, 3))  # W R r8 g t
    values = tl.reshape(values, (W, R * 16, 1, 4, 1))
    values = tl.broadcast_to(values, (W, R * 16, N8, 4, 2))
    return tl.reshape(values, (W, R * 16, N8 * 8))


@triton.jit(do_not_specialize=["rows", "columns"])
def pack_with_sums(
    x,
    packed,
    sums,
    rows,
    columns,
    x_stride,
    per_eight,
    OVERLAP: tl.constexpr,
):
    """What `jit.pack.pack_rows` writes, and means of 32 columns in the same order.

    `sums[eight, column // 256, 8 g, 4 t, 2, 2 p]` are the means of the groups `2 t + p` of
    256 columns as two numbers whose sum they are: a right operand with 16 rows. Program
    `(i, eight)` writes those of 256 columns; `per_eight` is a multiple of `8 * 256`.
    """
    if OVERLAP:
        start_next()
    DT: tl.constexpr = x.dtype.element_ty
    row = tl.program_id(1) * 8 + tl.arange(0, 8)
    inner = tl.arange(0, 256)
    column = tl.program_id(0) * 256 + inner
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    where = x + row.to(tl.int64)[:, None] * x_stride + column[None, :]
    values = tl.load(where, mask=inside, other=0.0)
    place = inner // 16 * 128 + inner // 2 % 4 * 4 + inner // 8 % 2 * 2 + inner % 2
    start = packed + tl.program_id(1) * per_eight + tl.program_id(0) * 2048
    g = tl.arange(0, 8)[:, None] * 16
    tl.store(start + g + place[None, :], values)
    mean = tl.sum(tl.reshape(values.to(tl.float32), (8, 8, 32)), axis=2) * 0.03125
    high = mean.to(DT)
    group = tl.arange(0, 8)
    start = sums + tl.program_id(1) * (per_eight // 16) + tl.program_id(0) * 128
    start += g + (group // 2 * 4 + group % 2)[None, :]
    tl.store(start, high)
    tl.store(start + 2, (mean - high.to(tl.float32)).to(DT))


@triton.jit(do_not_specialize=["rows", "columns", "tiles", "units", "pairs", "supers"])
def few_rows(
    x,
    x_sums,
    low,
    high,
    scales,
    steps,
    minima,
    y,
    rows,
    columns,
    out_rows,
    x_stride,
    tiles,
    units,
    high_units,
    pairs,
    supers,
    BITS: tl.constexpr,
    ZERO: tl.constexpr,
    OFFSETS: tl.constexpr,
    STEPS: tl.constexpr,
    LOWS: tl.constexpr,
    PACKED: tl.constexpr,
    MASKED: tl.constexpr,
    R: tl.constexpr,
    N8: tl.constexpr,
    W: tl.constexpr,
    OVERLAP: tl.constexpr,
    PTX: tl.constexpr,
    FIRST: tl.constexpr,
):
    """`y = x W^T` for up to `8 * N8` rows; program `i` makes the rows of `R` tiles from `i * R` on.

    A span has `LOWS` units of low bits. `tiles` must be a multiple of `R`. With `PACKED`, x
    is what `jit.pack.pack_rows` wrote, or with offsets that have steps `pack_with_sums`, which
    also wrote `x_sums`; then a span has 256 columns. See `operators.blocks_linear` for the
    tensors and `jit.loads` for the other names.
    """
    DT: tl.constexpr = x.dtype.element_ty
    UNIT: tl.constexpr = 32 if BITS == 8 else 64
    SPAN: tl.constexpr = LOWS * UNIT
    WIDE: tl.constexpr = 256 if BITS == 5 else 128  # columns of a unit of high bits
    HIGHS: tl.constexpr = SPAN // WIDE if BITS == 5 or BITS == 6 else 0
    first = tl.program_id(0) * R
    base = low + first.to(tl.int64) * units * 256
    high_base = high + first.to(tl.int64) * high_units * 256
    warp = tl.arange(0, 32 * W) // 32
    spans = (units + LOWS - 1) // LOWS
    sums = tl.zeros((W, R * 16, N8 * 8), tl.float32)
    ones = tl.full((W, R * 16, 16), 1.0, DT)
    for span in range(0, spans, W):
        words = ()
        for i in tl.static_range(LOWS):
            unit = span * LOWS + i
            there = (units - unit + LOWS - 1) // LOWS
            words = words + (
                load_words(
                    base + unit * 256,
                    units * 256,
                    LOWS * 256,
                    R,
                    there,
                    R,
                    1,
                    W,
                    False,
                    MASKED,
                    FIRST,
                ),
            )
        tops = ()
        for i in tl.static_range(HIGHS):
            unit = span * HIGHS + i
            there = (high_units - unit + HIGHS - 1) // HIGHS
            tops = tops + (
                load_words(
                    high_base + unit * 256,
                    high_units * 256,
                    HIGHS * 256,
                    R,
                    there,
                    R,
                    1,
                    W,
                    False,
                    MASKED,
                    FIRST,
                ),
            )
        start = (span + warp) * SPAN
        if STEPS:
            scale, offset = load_scales(
                scales, start // 256, first, tiles, supers, OFFSETS, R, W, False, False, FIRST
            )
        if OVERLAP:
            if span == 0:  # by now the first words are on their way
                wait_for_last()
        for part in tl.static_range(SPAN // 32):
            if STEPS == 16 or (STEPS == 32 and part % 2 == 0):
                pair = (start + part * 32) // (2 * STEPS)
                one, other = load_steps(
                    steps, pair, first, tiles, pairs, STEPS == 16, R, W, False, False, FIRST
                )
            if STEPS == 0:
                scale, offset = load_scales(
                    scales,
                    (start + part * 32) // 32,
                    first,
                    tiles,
                    supers,
                    OFFSETS,
                    R,
                    W,
                    False,
                    False,
                    FIRST,
                )
            products = tl.zeros((W, R * 16, N8 * 8), tl.float32)
            added = tl.zeros((W, R * 16, N8 * 8), tl.float32)
            there = (units - span * LOWS - part * 32 // UNIT + LOWS - 1) // LOWS
            for half in tl.static_range(2):
                if HIGHS:
                    top = tops[part * 32 // WIDE]
                else:
                    top = words[part * 32 // UNIT]
                code = codes(
                    words[part * 32 // UNIT],
                    top,
                    (part * 2 + half) % (UNIT // 16),
                    (part * 2 + half) % (WIDE // 16),
                    ZERO,
                    BITS,
                    DT,
                    PTX,
                )
                code = tl.permute(code, (2, 0, 6, 3, 1, 5, 4, 7))  # W R r8 g U k8 t p
                code = tl.reshape(code, (W, R * 16, 16))
                column = span * SPAN + (part * 2 + half) * 16
                if PACKED:
                    right = load_packed(x, column, x_stride, SPAN, 1, N8, W, FIRST)
                else:
                    right = load_activations(
                        x, x_stride, column, rows, columns, there, SPAN, 1, N8, W, MASKED, FIRST
                    )
                products = tl.dot(code, right, products)
                if OFFSETS and STEPS == 0:
                    added = tl.dot(ones, right, added)
                if STEPS == 16:
                    step = one if half == 0 else other
                    sums += products * of_sums(scale * step, R, N8, W)
                    products = tl.zeros((W, R * 16, N8 * 8), tl.float32)
            if STEPS == 32:
                step = one if part % 2 == 0 else other
                sums += products * of_sums(scale * step, R, N8, W)
            elif STEPS == 0:
                sums += products * of_sums(scale, R, N8, W)
                if OFFSETS:
                    sums += added * of_sums(offset, R, N8, W)
        if STEPS == 32:
            left = minima_operand(minima, span + warp, first, supers, R, W, DT, FIRST)
            right = load_packed(x_sums, span * 16, x_stride // 16, 16, 1, N8, W, FIRST)
            products = tl.dot(left, right, tl.zeros((W, R * 16, N8 * 8), tl.float32))
            sums -= products * of_sums(offset * 32, R, N8, W)
    total = tl.sum(sums, axis=0)
    row = first * 16 + tl.arange(0, R * 16)
    token = tl.arange(0, N8 * 8)
    mask = (token < rows)[:, None] & (row < out_rows)[None, :]
    where = y + token.to(tl.int64)[:, None] * out_rows + row[None, :]
    tl.store(where, tl.trans(total).to(DT), mask=mask)
