"""Weights of the kernel whose warps share the work, taken apart; see `jit.hopper`."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from quantload_kernels_triton.jit.fields import field_asm
from quantload_kernels_triton.jit.warpgroups.operand import halves, times


@gluon.jit
def of_rows(pairs, KIND: gl.constexpr, R: gl.constexpr, W: gl.constexpr, LAYOUT: gl.constexpr):
    """Two numbers in each int32 `[R, 32 W]`, taken apart: `[R, W, 8 g, 4 t, 1, 2 r8, 1]`."""
    first, second = halves(pairs, KIND)
    both = gl.reshape(gl.join(first, second), (R, W, 8, 4, 1, 2, 1))
    return gl.convert_layout(both, LAYOUT)


@gluon.jit
def plane_of(words, zero, scale, fine, PLANE: gl.constexpr, SPLIT: gl.constexpr):
    """Weights of one plane; see `groups.scaled_plane`."""
    codes = gl.inline_asm_elementwise(
        field_asm(4, PLANE, scale.dtype == gl.bfloat16),
        "=r,r,r",
        [words, zero],
        dtype=scale.dtype,
        is_pure=True,
        pack=2,
    )
    return times(codes, scale, fine, SPLIT)


@gluon.jit
def made_of(
    words,
    scale_pairs,
    zero_pairs,
    SPLIT: gl.constexpr,
    R: gl.constexpr,
    W: gl.constexpr,
    SCALES: gl.constexpr,
    DT: gl.constexpr,
    LAYOUT: gl.constexpr,
    OPERAND: gl.constexpr,
):
    """Weights `[16 R W, 64]` of words `[R, W, 128]`, two of 16 bits in an int32."""
    BF16: gl.constexpr = gl.bfloat16 == DT
    # -(128 + z) or 1024 + z, as `fields.prepared_zero` has it.
    MAGIC: gl.constexpr = -0x3CFF3D00 if BF16 else 0x64006400
    zero = of_rows(zero_pairs ^ MAGIC, DT, R, W, LAYOUT)
    stored = of_rows(scale_pairs, SCALES, R, W, LAYOUT)
    scale = stored.to(DT)
    fine = scale
    if SPLIT:
        fine = (stored.to(gl.float32) - scale.to(gl.float32)).to(DT)
    first, second = halves(words, gl.int16)
    words = gl.reshape(gl.join(first, second), (R, W, 8, 4, 2, 2, 2))
    words = gl.convert_layout(words, LAYOUT, assert_trivial=True)
    zero, words = gl.broadcast(zero, words)
    scale, words = gl.broadcast(scale, words)
    fine, words = gl.broadcast(fine, words)
    low = gl.join(
        plane_of(words, zero, scale, fine, 0, SPLIT), plane_of(words, zero, scale, fine, 1, SPLIT)
    )
    high = gl.join(
        plane_of(words, zero, scale, fine, 2, SPLIT), plane_of(words, zero, scale, fine, 3, SPLIT)
    )
    four = gl.permute(gl.join(low, high), (0, 1, 5, 2, 8, 7, 4, 3, 6))  # R W r8 g plane k8 t p
    return gl.convert_layout(gl.reshape(four, (R * W * 16, 64)), OPERAND, assert_trivial=True)
