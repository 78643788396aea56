"""Group-wise integers, and codes of a table, for the warpgroups: 64 rows by 64 columns a step."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from quantload_kernels_triton.jit.fields import field_asm
from quantload_kernels_triton.jit.tables import lookup_asm
from quantload_kernels_triton.jit.warpgroups.engine import run
from quantload_kernels_triton.jit.warpgroups.groups import group_at
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


@gluon.jit
def places(tensors, start, FORM: gl.constexpr):
    """Where a thread finds its part of four tiles from `start` on: words, scales, zero-points.

    A lane has 16 bytes of words at once, and of the scales those of two rows.
    """
    words, scales, zeros, segments, columns, tiles, units, groups = tensors
    at = words_at(words, start, tiles, units * (384 if FORM[0] == 3 else 128))
    lane = thread()
    pair = gl.minimum(start + lane // 32, tiles - 1) * 8 + lane // 4 % 8
    scales_at = scales
    if scales.dtype.element_ty == gl.float32:
        scales_at = scales + pair * 2
    else:
        scales_at = scales.to(gl.pointer_type(gl.int32)) + pair
    return at, scales_at, zeros.to(gl.pointer_type(gl.int32)) + pair


@gluon.jit
def fetch(at, tensors, step, FORM: gl.constexpr):
    """What a lane needs of a step: words, scales, zero-points, and what has its place in them."""
    words, scales, zeros, segments, columns, tiles, units, groups = tensors
    BITS: gl.constexpr = FORM[0]
    group = group_at(step * 64, segments, columns, groups, FORM[1], FORM[2], FORM[3]) * (tiles * 8)
    if BITS == 8:
        low = gl.load(at[0] + step * 256)
        high = gl.load(at[0] + step * 256 + 128)
    elif BITS == 4:
        low = gl.load(at[0] + step * 128)
        high = low
    elif BITS == 2:
        low = gl.load(at[0] + step // 2 * 128)
        high = low
    else:
        low = gl.load(at[0] + step // 4 * 384 + step // 2 % 2 * 128)
        high = gl.load(at[0] + step // 4 * 384 + 256)
    if FORM[6] == 3:
        scale = step
        second = step
    elif scales.dtype.element_ty == gl.float32:
        scale = gl.load(at[1] + group * 2)
        second = gl.load(at[1] + group * 2 + 1)
    else:
        scale = gl.load(at[1] + group)
        second = step
    zero = step
    if not FORM[4]:
        zero = gl.load(at[2] + group)
    return low, high, scale, second, zero, step


@gluon.jit
def scale_of(held, words, SCALES: gl.constexpr, SPLIT: gl.constexpr, DT: gl.constexpr):
    """Scales for each of the words, as one number of `DT` or the sum of two."""
    if gl.float32 == SCALES:
        coarse = of_rows(held[2].to(DT), held[3].to(DT), words)
        fine = of_rows(
            (held[2] - held[2].to(DT).to(gl.float32)).to(DT),
            (held[3] - held[3].to(DT).to(gl.float32)).to(DT),
            words,
        )
    else:
        first, second = halves(held[2], SCALES)
        coarse = of_rows(first.to(DT), second.to(DT), words)
        fine = coarse
        if SPLIT:
            fine = of_rows(
                (first.to(gl.float32) - first.to(DT).to(gl.float32)).to(DT),
                (second.to(gl.float32) - second.to(DT).to(gl.float32)).to(DT),
                words,
            )
    return coarse, fine


@gluon.jit
def zero_of(held, words, BITS: gl.constexpr, SYMMETRIC: gl.constexpr, DT: gl.constexpr):
    """Zero-points for each of the words, as `fields.prepared_zero` has them."""
    BF16: gl.constexpr = gl.bfloat16 == DT
    if SYMMETRIC:
        MIDDLE: gl.constexpr = 1 << (BITS - 1)
        SAME: gl.constexpr = (
            1024 + MIDDLE if not BF16 else (-MIDDLE if BITS == 8 else -128 - MIDDLE)
        )
        zero = gl.full(words.shape, SAME, DT, words.type.layout)
    elif BF16 and BITS == 8:
        first, second = halves(held[4], gl.int16)
        zero = of_rows(-(first.to(gl.float32)).to(DT), -(second.to(gl.float32)).to(DT), words)
    else:
        # 1024 + z, or -(128 + z).
        MAGIC: gl.constexpr = -0x3CFF3D00 if BF16 else 0x64006400
        first, second = halves(held[4] ^ MAGIC, DT)
        zero = of_rows(first, second, words)
    return zero


@gluon.jit
def field(words, zero, PLANE: gl.constexpr, BITS: gl.constexpr, DT: gl.constexpr):
    """`code - zero` of one plane, of fields that are not of 3 bits."""
    return gl.inline_asm_elementwise(
        field_asm(BITS, PLANE, gl.bfloat16 == DT),
        "=r,r,r",
        [words, zero],
        dtype=zero.dtype,
        is_pure=True,
        pack=2,
    )


@gluon.jit
def field3(words, high, zero, PLANE: gl.constexpr, DT: gl.constexpr):
    """`code - zero` of one plane, of fields of 3 bits."""
    return gl.inline_asm_elementwise(
        field_asm(3, PLANE, gl.bfloat16 == DT),
        "=r,r,r,r",
        [words, zero, high],
        dtype=zero.dtype,
        is_pure=True,
        pack=2,
    )


@gluon.jit
def looked_up(words, TABLE: gl.constexpr, DT: gl.constexpr):
    """The entries for all four planes; see `tables.looked_up`."""
    if gl.bfloat16 == DT:
        first, second, third, fourth = gl.inline_asm_elementwise(
            lookup_asm(TABLE, True),
            "=&r,=&r,=&r,=&r,r",
            [words],
            dtype=(gl.bfloat16, gl.bfloat16, gl.bfloat16, gl.bfloat16),
            is_pure=True,
            pack=2,
        )
    else:
        first, second, third, fourth = gl.inline_asm_elementwise(
            lookup_asm(TABLE, False),
            "=&r,=&r,=&r,=&r,r",
            [words],
            dtype=(gl.float16, gl.float16, gl.float16, gl.float16),
            is_pure=True,
            pack=2,
        )
    return first, second, third, fourth


@gluon.jit
def prepare(held, DT: gl.constexpr, FORM: gl.constexpr):
    """What the four planes of a step are made of: words, or entries of a table, and the rest."""
    BITS: gl.constexpr = FORM[0]
    pairs = held[0]
    if BITS < 4:
        pairs = pairs >> held[5] % 2 * 8
    first = of_words(pairs)
    words = first
    second = first
    third = first
    fourth = first
    zero = first
    if FORM[5] is not None:
        first, second, third, fourth = looked_up(first, FORM[5], DT)
    else:
        if BITS == 3:
            second = of_words(held[1] >> held[5] % 4 * 4)
        elif BITS == 8:
            second = of_words(held[1])
        zero = zero_of(held, first, BITS, FORM[4], DT)
    coarse = words
    fine = words
    if FORM[6] != 3:
        coarse, fine = scale_of(held, words, FORM[7], FORM[6] == 1, DT)
    return first, second, third, fourth, zero, coarse, fine


@gluon.jit
def plane(ready, PLANE: gl.constexpr, DT: gl.constexpr, OPERAND: gl.constexpr, FORM: gl.constexpr):
    """Weights of one plane, `[64, 16]` as `OPERAND`, of what `prepare` returned."""
    first, second, third, fourth, zero, coarse, fine = ready
    BITS: gl.constexpr = FORM[0]
    if FORM[5] is not None:
        codes = ready[PLANE]
    elif BITS == 3:
        codes = field3(first, second, zero, PLANE, DT)
    elif BITS == 8:
        codes = field(ready[PLANE // 2], zero, PLANE % 2, BITS, DT)
    else:
        codes = field(first, zero, PLANE, BITS, DT)
    if FORM[6] != 3:
        codes = times(codes, coarse, fine, FORM[6] == 1)
    return operand_of(codes, OPERAND)


@gluon.jit
def finish(sums, tensors, start, FORM: gl.constexpr):
    """The sums, times the scales of their rows where `plane` left them out."""
    if FORM[6] == 3:
        words, scales, zeros, segments, columns, tiles, units, groups = tensors
        row = gl.arange(0, 64, gl.SliceLayout(1, sums.type.layout))
        tile = gl.minimum(start + row // 16, tiles - 1)
        scale = gl.load(scales + tile * 16 + row % 8 * 2 + row // 8 % 2)
        sums *= gl.expand_dims(scale.to(gl.float32), 1)
    return sums


@gluon.jit(
    do_not_specialize=[
        "rows",
        "columns",
        "tiles",
        "units",
        "groups",
        *WORK,
    ],
)
def affine_rows(
    x,
    words,
    scales,
    zeros,
    segments,
    y,
    room,
    flags,
    rows,
    columns,
    out_rows,
    tiles,
    units,
    groups,
    shares,
    across,
    whole,
    parts,
    steps_each,
    mark,
    BITS: gl.constexpr,
    GROUP: gl.constexpr,
    RUN: gl.constexpr,
    LISTED: gl.constexpr,
    SYMMETRIC: gl.constexpr,
    TABLE: gl.constexpr,
    SCALING: gl.constexpr,
    STACK: gl.constexpr,
    WAYS: gl.constexpr,
    ROWS: gl.constexpr,
    STAGES: gl.constexpr,
    SPLIT: gl.constexpr,
    REGISTERS: gl.constexpr,
):
    """`y = x W^T`, or parts of it; see `engine.run`, and `many_rows.many_rows` for the weight.

    `RUN` is at least 64. `SCALING` is 0 where the dtype of x holds scales exactly, 1 where two
    numbers of it do, 3 where there is one group, whose scales are those of the rows of sums.
    """
    SCALES: gl.constexpr = scales.dtype.element_ty
    FORM: gl.constexpr = (BITS, GROUP, RUN, LISTED, SYMMETRIC, TABLE, SCALING, SCALES)
    tensors = (words, scales, zeros, segments, columns, tiles, units, groups)
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
