"""Codes out of words: integers minus their zero-points, exact in the compute dtype.

An integer below 2**m in the lowest mantissa bits of a float whose exponent makes those
bits count as ones is that integer plus a power of two: 1024 in float16 (`0x6400`), 128
in bfloat16 (`0x4300`). So a mask, an or and one subtraction take two codes out of a
32-bit register at once ("Who Says Elephants Can't Run", Kim et al. 2022, section 3.3).
Differences of codes and zero-points need nine bits at most and are exact in both types.

Without PTX (interpreter, other backends) the same is done with plain operations.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.constexpr_function
def field_asm(bits: int, plane: int, bf16: bool) -> str:
    """PTX for two codes of one plane: `$1` the words, `$2` the prepared zero-points.

    For 3 bits `$1` holds the low bits and `$3` the high ones.
    """
    # Triton looks into what a kernel refers to, and knows no plain functions: one piece.
    base, one = ("0x43004300", "0x3f803f80") if bf16 else ("0x64006400", "0x3c003c00")
    if bf16:
        minus = f"mov.b32 c, {one}; fma.rn.bf16x2 $0, a, c, $2;"
    else:
        minus = "sub.rn.f16x2 $0, a, $2;"
    place = 2 * (plane % 8) if bits == 3 else bits * plane
    # A field that lies within the mantissa is read where it is, and scaled by the product.
    low = place % 8
    if bits in (3, 8) or low + bits > (7 if bf16 else 10):
        low = 0
    lines = f"shr.u32 w, $1, {place - low};"
    mask = f"0x{(((1 << min(bits, 8)) - 1) << low) * 0x10001:08x}"
    if bits == 8 and bf16:
        # Eight bits do not fit the mantissa: the low seven and the high one are taken apart.
        lines += f"lop3.b32 a, w, 0x007f007f, {base}, 0xea;"
        lines += f"lop3.b32 b, w, 0x00800080, {base}, 0xea;"
        lines += f"mov.b32 c, {one}; mov.b32 d, 0xc300c300;"
        lines += "fma.rn.bf16x2 a, a, c, d; fma.rn.bf16x2 b, b, c, d;"
        lines += "fma.rn.bf16x2 b, b, c, $2; fma.rn.bf16x2 $0, a, c, b;"
    elif bits == 3:
        lines += f"lop3.b32 a, w, 0x00030003, {base}, 0xea;"
        lines += f"shl.b32 w, $3, {2 - plane};" if plane < 2 else f"shr.u32 w, $3, {plane - 2};"
        lines += f"lop3.b32 a, w, 0x00040004, a, 0xea; {minus}"
    elif low == 0:
        lines += f"lop3.b32 a, w, {mask}, {base}, 0xea; {minus}"
    elif bf16:
        # $2 is -(128 + z), and -(128 / 2**low + z) is wanted.
        lift, scale = {2: (0x42C0, 0x3E80), 4: (0x42F0, 0x3D80)}[low]
        lines += f"lop3.b32 a, w, {mask}, {base}, 0xea; mov.b32 c, {one};"
        lines += f"mov.b32 d, 0x{lift * 0x10001:08x}; fma.rn.bf16x2 b, d, c, $2;"
        lines += f"mov.b32 c, 0x{scale * 0x10001:08x}; fma.rn.bf16x2 $0, a, c, b;"
    else:
        # $2 is 1024 + z, and -(1024 / 2**low + z) is wanted.
        lift, scale = {2: (0x6200, 0x3400), 4: (0x6380, 0x2C00), 6: (0x63E0, 0x2400)}[low]
        lines += f"lop3.b32 a, w, {mask}, {base}, 0xea;"
        lines += f"mov.b32 d, 0x{lift * 0x10001:08x}; sub.rn.f16x2 b, d, $2;"
        lines += f"mov.b32 c, 0x{scale * 0x10001:08x}; fma.rn.f16x2 $0, a, c, b;"
    return "{ .reg .b32 w, a, b, c, d; " + lines + " }"


@triton.jit
def prepared_zero(zero, BITS: tl.constexpr, DT: tl.constexpr, PTX: tl.constexpr):
    """Zero-points (any integer tensor) in the form that `codes_minus_zero` wants."""
    prepared = zero.to(tl.float32)
    if PTX:
        if tl.float16 == DT:
            prepared = prepared + 1024.0
        elif BITS == 8:
            prepared = -prepared
        else:
            prepared = -128.0 - prepared
    return prepared.to(DT)


@triton.jit
def codes_minus_zero(
    words, high, zero, PLANE: tl.constexpr, BITS: tl.constexpr, DT: tl.constexpr, PTX: tl.constexpr
):
    """`code - zero` of one plane, of the shape of `words`.

    Args:
        words: int16 words; for 3 bits those with the plane's two low bits.
        high: for 3 bits the words with the high bits, else `words` again.
        zero: `prepared_zero`, of the same shape.
        PLANE: which plane.
        BITS: bits of a code.
        DT: tl.float16 or tl.bfloat16.
        PTX: whether inline PTX can be used.
    """
    if PTX and BITS == 3:
        result = tl.inline_asm_elementwise(
            field_asm(BITS, PLANE, tl.bfloat16 == DT),
            "=r,r,r,r",
            [words, zero, high],
            dtype=zero.dtype,
            is_pure=True,
            pack=2,
        )
    elif PTX:
        result = tl.inline_asm_elementwise(
            field_asm(BITS, PLANE, tl.bfloat16 == DT),
            "=r,r,r",
            [words, zero],
            dtype=zero.dtype,
            is_pure=True,
            pack=2,
        )
    else:
        if BITS == 3:
            code = ((words >> (2 * (PLANE % 8))) & 3) | (((high >> PLANE) & 1) << 2)
        else:
            code = (words >> (BITS * PLANE)) & ((1 << BITS) - 1)
        result = (code.to(tl.float32) - zero.to(tl.float32)).to(DT)
    return result
