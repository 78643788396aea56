"""The product for many rows of activations, and the weight in float.

As `jit.many_rows`: weights are made in registers, in the layout of the left operand, 64
columns at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantload_kernels_triton.blocks.jit.fields import codes
from quantload_kernels_triton.blocks.jit.scaling import load_minima, load_scales, load_steps
from quantload_kernels_triton.jit.groups import multiply_asm, spread_rows
from quantload_kernels_triton.jit.loads import load_words
from quantload_kernels_triton.jit.many_rows import finished, in_order
from quantload_kernels_triton.jit.pack import start_next


@triton.constexpr_function
def affine_asm(bf16: bool) -> str:
    """PTX for two weights: `$1` codes, `$2 + $3` the scale, `$4` the offset."""
    kind = "bf16x2" if bf16 else "f16x2"
    return f"{{ .reg .b32 l; fma.rn.{kind} l, $1, $3, $4; fma.rn.{kind} $0, $1, $2, l; }}"


@triton.jit
def scaled(
    code,
    scale,
    offset,
    OFFSETS: tl.constexpr,
    EXACT: tl.constexpr,
    R: tl.constexpr,
    W: tl.constexpr,
    OUT: tl.constexpr,
):
    """`code * scale + offset` as `OUT`; scales `[R, W, 8, 4, 2]` in float32.

    With `EXACT` it is rounded once; else products of pairs, whose scale has two parts of
    `OUT` and whose offset is rounded.
    """
    if EXACT:
        result = code.to(tl.float32) * spread_rows(scale, R, 1, W)
        if OFFSETS:
            result += spread_rows(offset, R, 1, W)
        result = result.to(OUT)
    else:
        coarse = scale.to(OUT)
        fine = spread_rows((scale - coarse.to(tl.float32)).to(OUT), R, 1, W)
        coarse = spread_rows(coarse, R, 1, W)
        if OFFSETS:
            result = tl.inline_asm_elementwise(
                affine_asm(tl.bfloat16 == OUT),
                "=r,r,r,r,r",
                [code, coarse, fine, spread_rows(offset.to(OUT), R, 1, W)],
                dtype=coarse.dtype,
                is_pure=True,
                pack=2,
            )
        else:
            result = tl.inline_asm_elementwise(
                multiply_asm(tl.bfloat16 == OUT, True),
                "=r,r,r,r",
                [code, coarse, fine],
                dtype=coarse.dtype,
                is_pure=True,
                pack=2,
            )
    return result


@triton.jit
def load_high(
    high,
    first,
    step,
    tiles,
    high_units,
    BITS: tl.constexpr,
    MASKED: tl.constexpr,
    R: tl.constexpr,
    W: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Words of high bits of the unit that begins with the columns of `step`."""
    unit = step // (4 if BITS == 5 else 2)
    base = high + first.to(tl.int64) * high_units * 256 + unit * 256
    return load_words(
        base, high_units * 256, 256, tiles - first, high_units - unit, R, 1, W, True, MASKED, FIRST
    )


@triton.jit
def weights_of(
    low,
    top,
    scales,
    steps,
    minima,
    first,
    step,
    tiles,
    units,
    pairs,
    supers,
    PART: tl.constexpr,
    BITS: tl.constexpr,
    ZERO: tl.constexpr,
    OFFSETS: tl.constexpr,
    STEPS: tl.constexpr,
    EXACT: tl.constexpr,
    MASKED: tl.constexpr,
    R: tl.constexpr,
    W: tl.constexpr,
    DT: tl.constexpr,
    OUT: tl.constexpr,
    PTX: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Weights as `OUT`, `[R, W, 2 r8, 8 g, 1, 64]`, of 64 columns from `64 * step` on.

    Codes are taken apart as `DT`. `top` is what `load_high` gives for the unit of `step`,
    and `PART` the place of `step` in it; both count only where codes have 5 or 6 bits.
    """
    UNIT: tl.constexpr = 32 if BITS == 8 else 64
    EACH: tl.constexpr = 64 // UNIT
    HIGH: tl.constexpr = BITS == 5 or BITS == 6
    WIDE: tl.constexpr = 256 if BITS == 5 else 128
    more = tiles - first
    base = low + first.to(tl.int64) * units * 256
    words = ()
    for i in tl.static_range(EACH):
        unit = step * EACH + i
        words = words + (
            load_words(
                base + unit * 256,
                units * 256,
                EACH * 256,
                more,
                (units - unit + EACH - 1) // EACH,
                R,
                1,
                W,
                True,
                MASKED,
                FIRST,
            ),
        )
    # Whole numbers around zero, so that offsets are no larger than weights.
    middle: tl.constexpr = 1 << (BITS - 1) if OFFSETS else ZERO
    if STEPS:
        base_scale, base_offset = load_scales(
            scales, step // 4, first, tiles, supers, OFFSETS, R, W, True, MASKED, FIRST
        )
    planes = ()
    for part in tl.static_range(2):
        if STEPS == 16:
            one, other = load_steps(
                steps, step * 2 + part, first, tiles, pairs, True, R, W, True, MASKED, FIRST
            )
            scale = base_scale * one
            second = base_scale * other
            offset = scale
        elif STEPS == 32:
            if part == 0:
                one, other = load_steps(
                    steps, step, first, tiles, pairs, False, R, W, True, MASKED, FIRST
                )
                least, later = load_minima(
                    minima, step, first, tiles, supers, R, W, True, MASKED, FIRST
                )
            scale = base_scale * (one if part == 0 else other)
            second = scale
            offset = -base_offset * (least if part == 0 else later)
        else:
            scale, offset = load_scales(
                scales, step * 2 + part, first, tiles, supers, OFFSETS, R, W, True, MASKED, FIRST
            )
            second = scale
        if OFFSETS:
            offset += scale * (middle - ZERO)
        for half in tl.static_range(2):
            code = codes(
                words[part * 32 // UNIT],
                top if HIGH else words[0],
                (part * 2 + half) % (UNIT // 16),
                (PART * 4 + part * 2 + half) % (WIDE // 16),
                middle,
                BITS,
                DT,
                PTX,
            )
            if STEPS == 16:
                if half == 1:
                    scale = second
            planes = planes + (scaled(code, scale, offset, OFFSETS, EXACT, R, W, OUT),)
    return in_order(planes, 4, R, 1, W)


@triton.jit(
    do_not_specialize=["rows", "columns", "tiles", "units", "pairs", "supers", "steps_each"]
)
def many_rows(
    x,
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
    steps_each,
    BITS: tl.constexpr,
    ZERO: tl.constexpr,
    OFFSETS: tl.constexpr,
    STEPS: tl.constexpr,
    EXACT: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    R: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
    PTX: tl.constexpr,
    FIRST: tl.constexpr,
):
    """`y = x W^T`, or parts of it: program `(i, j, s)` makes `ROWS` rows from `i * ROWS` on.

    Their columns are those of `R * W` tiles from `j * R * W` on; `s` is a run of
    `steps_each` times 64 columns, a multiple of `C`, and `y` is `[runs, rows, out_rows]`.
    """
    if OVERLAP:
        start_next()
    DT: tl.constexpr = x.dtype.element_ty
    TALL: tl.constexpr = R * W * 16
    HIGH: tl.constexpr = BITS == 5 or BITS == 6
    PARTS: tl.constexpr = 4 if BITS == 5 else 2
    first = tl.program_id(1) * (R * W)
    start = tl.program_id(2) * steps_each
    stop = tl.minimum(start + steps_each, (columns + 63) // 64)
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, 64)
    place = x + (token.to(tl.int64) * x_stride)[:, None] + column[None, :]
    inside = (token < rows)[:, None]
    sums = tl.zeros((TALL, ROWS), tl.float32)
    for step in tl.range(start, stop, C, num_stages=STAGES):
        for chunk in tl.static_range(C):
            if HIGH:
                if chunk % PARTS == 0:
                    top = load_high(
                        high, first, step + chunk, tiles, high_units, BITS, MASKED, R, W, FIRST
                    )
            left = weights_of(
                low,
                top if HIGH else low,
                scales,
                steps,
                minima,
                first,
                step + chunk,
                tiles,
                units,
                pairs,
                supers,
                chunk % PARTS,
                BITS,
                ZERO,
                OFFSETS,
                STEPS,
                EXACT,
                MASKED,
                R,
                W,
                DT,
                DT,
                PTX,
                FIRST,
            )
            here = (step + chunk) * 64
            if MASKED:
                mask = inside & (here + column < columns)[None, :]
            else:
                mask = inside
            right = tl.load(place + here, mask=mask, other=0.0)
            sums = tl.dot(tl.reshape(left, (TALL, 64)), tl.trans(right), sums)
        if PTX:
            sums = finished(sums)
    row = first * 16 + tl.arange(0, TALL)
    out = (tl.program_id(2) * rows + token).to(tl.int64)
    where = y + out[:, None] * out_rows + row[None, :]
    mask = (token < rows)[:, None] & (row < out_rows)[None, :]
    tl.store(where, tl.trans(sums).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["tiles", "units", "pairs", "supers"])
def decoded(
    low,
    high,
    scales,
    steps,
    minima,
    out,
    columns,
    out_rows,
    tiles,
    units,
    high_units,
    pairs,
    supers,
    BITS: tl.constexpr,
    ZERO: tl.constexpr,
    OFFSETS: tl.constexpr,
    STEPS: tl.constexpr,
    MASKED: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    W: tl.constexpr,
    DT: tl.constexpr,
    PTX: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Writes `W` `[out_rows, columns]`: program `(i, j)` the columns of `C` times 64.

    The `W` warps stand one below the other, with `R` tiles each.
    """
    first = tl.program_id(1) * (R * W)
    OUT: tl.constexpr = out.dtype.element_ty
    HIGH: tl.constexpr = BITS == 5 or BITS == 6
    PARTS: tl.constexpr = 4 if BITS == 5 else 2
    row = first * 16 + tl.arange(0, R * W * 16)
    place = out + row.to(tl.int64)[:, None] * columns
    for chunk in tl.static_range(C):
        step = tl.program_id(0) * C + chunk
        if HIGH:
            if chunk % PARTS == 0:
                top = load_high(high, first, step, tiles, high_units, BITS, MASKED, R, W, FIRST)
        weights = weights_of(
            low,
            top if HIGH else low,
            scales,
            steps,
            minima,
            first,
            step,
            tiles,
            units,
            pairs,
            supers,
            chunk % PARTS,
            BITS,
            ZERO,
            OFFSETS,
            STEPS,
            True,
            MASKED,
            R,
            W,
            DT,
            OUT,
            PTX,
            FIRST,
        )
        weights = tl.reshape(weights, (R * W * 16, 64))
        column = step * 64 + tl.arange(0, 64)
        mask = (row < out_rows)[:, None] & (column < columns)[None, :]
        tl.store(place + column[None, :], weights, mask=mask)
