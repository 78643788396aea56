"""Scales and zero-points of the columns at hand, and the weights that they make."""

from __future__ import annotations

import triton
import triton.language as tl

from quantload_kernels_triton.jit.fields import codes_minus_zero, prepared_zero
from quantload_kernels_triton.jit.loads import load_pairs


@triton.constexpr_function
def multiply_asm(bf16: bool, split: bool) -> str:
    """PTX for two products: `$1 * $2`, or `$1 * ($2 + $3)` with one rounding at the end."""
    if bf16:  # without a product of its own before sm90: a sum with -0
        product = "mov.b32 n, 0x80008000; fma.rn.bf16x2"
        if split:
            return f"{{ .reg .b32 n, l; {product} l, $1, $3, n; fma.rn.bf16x2 $0, $1, $2, l; }}"
        return f"{{ .reg .b32 n; {product} $0, $1, $2, n; }}"
    if split:
        return "{ .reg .b32 l; mul.rn.f16x2 l, $1, $3; fma.rn.f16x2 $0, $1, $2, l; }"
    return "mul.rn.f16x2 $0, $1, $2;"


@triton.jit
def group_of(
    column,
    segments,
    columns,
    groups,
    GROUP: tl.constexpr,
    RUN: tl.constexpr,
    LISTED: tl.constexpr,
):
    """The group of sorted columns; of columns beyond the last, any group.

    Args:
        column: first column of a run, a number or a tensor.
        segments: pointer to the group of each run, where `LISTED`.
        columns: how many columns there are.
        groups: how many groups there are.
        GROUP: columns of a group; 0 where there is one group only.
        RUN: columns of a run.
        LISTED: whether groups are looked up.
    """
    if LISTED:
        group = tl.load(segments + tl.minimum(column, columns - 1) // RUN)
    elif GROUP == 0:
        group = column * 0
    else:
        group = tl.minimum(column // GROUP, groups - 1)
    return group


@triton.jit
def load_scales(
    scales,
    group,
    first,
    tiles,
    R: tl.constexpr,
    W: tl.constexpr,
    DOWN: tl.constexpr,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Scales of tiles from `first` on, in the dtype they are stored in; see `load_pairs`."""
    offset = group * (tiles * 16)
    return load_pairs(scales + first * 16, offset, tiles - first, R, W, DOWN, MASKED, FIRST)


@triton.jit
def load_zeros(
    zeros,
    group,
    first,
    tiles,
    BITS: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    R: tl.constexpr,
    W: tl.constexpr,
    DOWN: tl.constexpr,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Zero-points of tiles from `first` on, int16; see `load_pairs`.

    Where there are offsets in their place, what `load_offsets` takes for the zero-points.
    """
    if SYMMETRIC or zeros.dtype.element_ty.is_floating():
        values = tl.full((R, W, 8, 4, 2), 1 << (BITS - 1), tl.int16)
    else:
        offset = group * (tiles * 16)
        values = load_pairs(zeros + first * 16, offset, tiles - first, R, W, DOWN, MASKED, FIRST)
    return values


@triton.jit
def load_offsets(
    zeros,
    scale,
    group,
    first,
    tiles,
    BITS: tl.constexpr,
    R: tl.constexpr,
    W: tl.constexpr,
    DOWN: tl.constexpr,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,
):
    """What is added to `(code - 2**(BITS - 1)) * scale`, float32; see `load_pairs`.

    `zeros` points to offsets, which are added to `code * scale`; nothing is added where it
    points to integers. `scale` are the scales of the same rows, `[R, W, 8, 4, 2]`.
    """
    if zeros.dtype.element_ty.is_floating():
        offset = group * (tiles * 16)
        values = load_pairs(zeros + first * 16, offset, tiles - first, R, W, DOWN, MASKED, FIRST)
        values = values.to(tl.float32) + scale.to(tl.float32) * (1 << (BITS - 1))
    else:
        values = tl.full((R, W, 8, 4, 2), 0.0, tl.float32)
    return values


@triton.jit
def spread_rows(values, R: tl.constexpr, U: tl.constexpr, W: tl.constexpr):
    """Values of rows `[R, W, 8, 4, 2]` in the shape of `load_words`."""
    values = tl.reshape(values, (R, 1, W, 8, 4, 1, 2, 1))
    return tl.broadcast_to(values, (R, U, W, 8, 4, 2, 2, 2))


@triton.jit
def scaled_plane(
    words,
    high,
    zero,
    scale,
    added,
    looked,
    ADDS: tl.constexpr,
    PLANE: tl.constexpr,
    BITS: tl.constexpr,
    TABLE: tl.constexpr,
    SCALING: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    W: tl.constexpr,
    DT: tl.constexpr,
    OUT: tl.constexpr,
    PTX: tl.constexpr,
):
    """Weights of one plane, rounded once (nearly so where `SCALING` is 1), as `OUT`.

    Args:
        words: see `codes_minus_zero`.
        high: see `codes_minus_zero`.
        zero: int16 zero-points `[R, W, 8, 4, 2]`.
        scale: scales `[R, W, 8, 4, 2]`, in the dtype they are stored in.
        added: `load_offsets`, where `ADDS`; then `SCALING` must be 2.
        looked: where there is a `TABLE`, its entries for the planes (`tables.looked_up`).
        PLANE: which plane.
        BITS: bits of a code.
        ADDS: whether something is added to the product of code and scale.
        TABLE: name of the table that codes index; None where they are integers.
        SCALING: 0 where `OUT` holds scales exactly, 1 where two numbers of `OUT` do, 2
            where float32 must, 3 where the caller multiplies with them.
        R: tiles.
        U: units.
        W: warps.
        DT: tl.float16 or tl.bfloat16, in which codes are taken apart.
        OUT: dtype of the weights; `DT` unless `SCALING` is 2.
        PTX: whether inline PTX can be used.
    """
    if TABLE is not None:
        codes = looked[PLANE]
    else:
        prepared = spread_rows(prepared_zero(zero, BITS, DT, PTX), R, U, W)
        codes = codes_minus_zero(words, high, prepared, PLANE, BITS, DT, PTX)
    if SCALING == 3:
        plane = codes
    elif ADDS:
        wide = codes.to(tl.float32) * spread_rows(scale.to(tl.float32), R, U, W)
        plane = (wide + spread_rows(added, R, U, W)).to(OUT)
    elif not PTX or SCALING == 2:
        plane = (codes.to(tl.float32) * spread_rows(scale.to(tl.float32), R, U, W)).to(OUT)
    elif SCALING == 0:
        coarse = scale.to(OUT)
        plane = tl.inline_asm_elementwise(
            multiply_asm(tl.bfloat16 == OUT, False),
            "=r,r,r",
            [codes, spread_rows(coarse, R, U, W)],
            dtype=coarse.dtype,
            is_pure=True,
            pack=2,
        )
    else:
        coarse = scale.to(OUT)
        fine = (scale.to(tl.float32) - coarse.to(tl.float32)).to(OUT)
        plane = tl.inline_asm_elementwise(
            multiply_asm(tl.bfloat16 == OUT, True),
            "=r,r,r,r",
            [codes, spread_rows(coarse, R, U, W), spread_rows(fine, R, U, W)],
            dtype=coarse.dtype,
            is_pure=True,
            pack=2,
        )
    return plane
