"""Weights in blocks, for the warpgroups of `jit.warpgroups`: 64 rows by 64 columns a step."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from quantload_kernels_triton.blocks.jit.fields import joined_asm
from quantload_kernels_triton.blocks.jit.many_rows import affine_asm
from quantload_kernels_triton.jit.fields import field_asm
from quantload_kernels_triton.jit.warpgroups.engine import run
from quantload_kernels_triton.jit.warpgroups.operand import (
    halves,
    of_rows,
    of_words,
    operand_of,
    thread,
    times,
    words_at,
)
from quantload_kernels_triton.jit.warpgroups.shares import WORK

# FORM: bits, zero, whether there are offsets, columns of a step (see `form.Form`).


@gluon.jit
def places(tensors, start, FORM: gl.constexpr):
    """Where a thread finds its part of four tiles from `start` on: codes, scales, steps, minima."""
    low, high, scales, steps, minima, tiles, units, high_units, pairs, groups = tensors
    lane = thread()
    row = lane // 4 % 8
    tile = gl.minimum(start + lane // 32, tiles - 1).to(gl.int64)
    COUNT: gl.constexpr = 2 if FORM[2] else 1
    return (
        words_at(low, start, tiles, units * 128),
        words_at(high, start, tiles, high_units * 128),
        scales.to(gl.pointer_type(gl.int32)) + (tile * groups * 8 + row) * COUNT,
        steps.to(gl.pointer_type(gl.int32)) + tile * pairs * 8 + row,
        minima.to(gl.pointer_type(gl.int32)) + tile * groups * 32 + row * 4,
    )


@gluon.jit
def fetch(at, tensors, step, FORM: gl.constexpr):
    """What a lane needs of a step: codes, two scales or groups, steps, minima, and the step."""
    BITS: gl.constexpr = FORM[0]
    COUNT: gl.constexpr = 2 if FORM[2] else 1
    if BITS == 8:
        low = gl.load(at[0] + step * 256)
        high = gl.load(at[0] + step * 256 + 128)
    else:
        low = gl.load(at[0] + step * 128)
        high = low
        if BITS != 4:
            high = gl.load(at[1] + step // (4 if BITS == 5 else 2) * 128)
    group = step // 4 if FORM[3] else step * 2
    first = gl.load(at[2] + group * (8 * COUNT))
    second = first
    third = first
    fourth = first
    if FORM[2]:
        second = gl.load(at[2] + group * 16 + 1)
    if FORM[3] == 0:
        third = gl.load(at[2] + (group + 1) * (8 * COUNT))
        if FORM[2]:
            fourth = gl.load(at[2] + group * 16 + 17)
    elif FORM[3] == 16:
        second = gl.load(at[3] + step * 16)
        third = gl.load(at[3] + step * 16 + 8)
    else:
        third = gl.load(at[3] + step * 8)
        fourth = gl.load(at[4] + step // 4 * 32 + step % 4)
    return low, high, first, second, third, fourth, step


@gluon.jit
def byte_of(word, INDEX: gl.constexpr, SIGNED: gl.constexpr):
    """See `scaling.byte_of`."""
    if SIGNED:
        word = word ^ -2139062144  # 0x80808080
    whole = ((word >> (8 * INDEX)) & 255) | 0x4B000000
    LEAST: gl.constexpr = 8388736.0 if SIGNED else 8388608.0
    return whole.to(gl.float32, bitcast=True) - LEAST


@gluon.jit
def pair_of(word):
    """Two halves of a word of float16, in float32."""
    first, second = halves(word, gl.float16)
    return first.to(gl.float32), second.to(gl.float32)


@gluon.jit
def scales_of(held, PART: gl.constexpr, HALF: gl.constexpr, FORM: gl.constexpr):
    """Scales and offsets in float32 of 16 columns: of row `g` and of row `g + 8`."""
    MIDDLE: gl.constexpr = 1 << (FORM[0] - 1)
    if FORM[3] == 16:
        scale, scale8 = pair_of(held[2])
        word = held[3] if PART == 0 else held[4]
        scale *= byte_of(word, 2 * HALF, True)
        scale8 *= byte_of(word, 2 * HALF + 1, True)
        offset = scale
        offset8 = scale8
    elif FORM[3] == 32:
        scale, offset = pair_of(held[2])
        scale8, offset8 = pair_of(held[3])
        scale *= byte_of(held[4], 2 * PART, False)
        scale8 *= byte_of(held[4], 2 * PART + 1, False)
        offset *= -byte_of(held[5], PART, False)
        offset8 *= -byte_of(held[5], PART + 2, False)
    elif FORM[2]:
        scale, offset = pair_of(held[2] if PART == 0 else held[4])
        scale8, offset8 = pair_of(held[3] if PART == 0 else held[5])
    else:
        scale, scale8 = pair_of(held[2] if PART == 0 else held[4])
        offset = scale
        offset8 = scale8
    if FORM[2]:
        # Codes are whole numbers around zero, so that offsets are no larger than weights.
        offset += scale * (MIDDLE - FORM[1])
        offset8 += scale8 * (MIDDLE - FORM[1])
    return scale, scale8, offset, offset8


@gluon.jit
def codes_of(words, top, PLANE: gl.constexpr, FORM: gl.constexpr, DT: gl.constexpr):
    """`code - zero` of one plane; see `fields.codes`."""
    BITS: gl.constexpr = FORM[0]
    BF16: gl.constexpr = gl.bfloat16 == DT
    MIDDLE: gl.constexpr = 1 << (BITS - 1) if FORM[2] else FORM[1]
    SAME: gl.constexpr = 1024 + MIDDLE if not BF16 else (-MIDDLE if BITS == 8 else -128 - MIDDLE)
    zero = gl.full(words.shape, SAME, DT, words.type.layout)
    if BITS == 4 or BITS == 8:
        codes = gl.inline_asm_elementwise(
            field_asm(BITS, PLANE, BF16),
            "=r,r,r",
            [words, zero],
            dtype=zero.dtype,
            is_pure=True,
            pack=2,
        )
    else:
        codes = gl.inline_asm_elementwise(
            joined_asm(4 * PLANE, (BITS - 4) * PLANE, BITS - 4, BF16),
            "=r,r,r,r",
            [words, top, zero],
            dtype=zero.dtype,
            is_pure=True,
            pack=2,
        )
    return codes


@gluon.jit
def plane_of(
    words,
    top,
    held,
    PLANE: gl.constexpr,
    PART: gl.constexpr,
    HALF: gl.constexpr,
    FORM: gl.constexpr,
    DT: gl.constexpr,
):
    """Weights of 16 columns, as `many_rows.scaled` has them where it is not exact."""
    codes = codes_of(words, top, PLANE, FORM, DT)
    scale, scale8, offset, offset8 = scales_of(held, PART, HALF, FORM)
    coarse = of_rows(scale.to(DT), scale8.to(DT), words)
    fine = of_rows(
        (scale - scale.to(DT).to(gl.float32)).to(DT),
        (scale8 - scale8.to(DT).to(gl.float32)).to(DT),
        words,
    )
    if FORM[2]:
        plane = gl.inline_asm_elementwise(
            affine_asm(gl.bfloat16 == DT),
            "=r,r,r,r,r",
            [codes, coarse, fine, of_rows(offset.to(DT), offset8.to(DT), words)],
            dtype=codes.dtype,
            is_pure=True,
            pack=2,
        )
    else:
        plane = times(codes, coarse, fine, True)
    return plane


@gluon.jit
def prepare(held, DT: gl.constexpr, FORM: gl.constexpr):
    """What the four planes of a step are made of: words, further ones, and what was loaded."""
    BITS: gl.constexpr = FORM[0]
    words = of_words(held[0])
    more = words
    if BITS == 5:
        more = of_words(held[1] >> held[6] % 4 * 4)
    elif BITS == 6:
        more = of_words(held[1] >> held[6] % 2 * 8)
    elif BITS == 8:
        more = of_words(held[1])
    return words, more, held


@gluon.jit
def plane(ready, PLANE: gl.constexpr, DT: gl.constexpr, OPERAND: gl.constexpr, FORM: gl.constexpr):
    """Weights of one plane, `[64, 16]` as `OPERAND`, of what `prepare` returned."""
    words, more, held = ready
    if FORM[0] == 8:
        words = ready[PLANE // 2]
        weights = plane_of(words, words, held, PLANE % 2, PLANE // 2, PLANE % 2, FORM, DT)
    else:
        weights = plane_of(words, more, held, PLANE, PLANE // 2, PLANE % 2, FORM, DT)
    return operand_of(weights, OPERAND)


@gluon.jit
def finish(sums, tensors, start, FORM: gl.constexpr):
    """The sums as they are."""
    return sums


@gluon.jit(
    do_not_specialize=[
        "rows",
        "columns",
        "tiles",
        "units",
        "high_units",
        "pairs",
        "groups",
        *WORK,
    ],
)
def blocks_rows(
    x,
    low,
    high,
    scales,
    steps,
    minima,
    y,
    room,
    flags,
    rows,
    columns,
    out_rows,
    tiles,
    units,
    high_units,
    pairs,
    groups,
    shares,
    across,
    whole,
    parts,
    steps_each,
    mark,
    BITS: gl.constexpr,
    ZERO: gl.constexpr,
    OFFSETS: gl.constexpr,
    STEPS: gl.constexpr,
    STACK: gl.constexpr,
    WAYS: gl.constexpr,
    ROWS: gl.constexpr,
    STAGES: gl.constexpr,
    SPLIT: gl.constexpr,
    REGISTERS: gl.constexpr,
):
    """`y = x W^T`, or parts of it; see `engine.run`, and `launch.Blocks` for the weight."""
    FORM: gl.constexpr = (BITS, ZERO, OFFSETS, STEPS)
    tensors = (low, high, scales, steps, minima, tiles, units, high_units, pairs, groups)
    run(
        x,
        tensors,
        (y, rows, out_rows),
        columns,
        shares,
        (across, whole, parts, steps_each),
        (room, flags, mark),
        places,
        fetch,
        prepare,
        plane,
        finish,
        FORM,
        STACK,
        WAYS,
        ROWS,
        STAGES,
        SPLIT,
        REGISTERS,
    )
