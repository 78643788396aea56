"""Codes out of words, for the widths that `jit.fields` does not have."""

from __future__ import annotations

import triton
import triton.language as tl

from quantload_kernels_triton.jit.fields import codes_minus_zero


@triton.constexpr_function
def joined_asm(low: int, high: int, width: int, bf16: bool) -> str:
    """PTX for two codes: `$1` words of four low bits, `$2` of the high ones, `$3` the zero.

    The field of the low bits is at bit `low`, that of the `width` high ones at bit `high`.
    As in `jit.fields`, codes become numbers by standing in the mantissa of a power of two.
    """
    base, one = ("0x43004300", "0x3f803f80") if bf16 else ("0x64006400", "0x3c003c00")
    lines = f"shr.u32 w, $1, {low}; lop3.b32 a, w, 0x000f000f, {base}, 0xea;"
    lines += f"shl.b32 w, $2, {4 - high};" if high < 4 else f"shr.u32 w, $2, {high - 4};"
    lines += f"lop3.b32 a, w, 0x{(((1 << width) - 1) << 4) * 0x10001:08x}, a, 0xea;"
    if bf16:
        lines += f"mov.b32 w, {one}; fma.rn.bf16x2 $0, a, w, $3;"
    else:
        lines += "sub.rn.f16x2 $0, a, $3;"
    return "{ .reg .b32 w, a; " + lines + " }"


@triton.jit
def prepared(zero: tl.constexpr, BITS: tl.constexpr, DT: tl.constexpr, PTX: tl.constexpr):
    """A zero-point as `codes` wants it, a number."""
    value: tl.constexpr = (
        zero
        if not PTX
        else (1024 + zero if tl.float16 == DT else (-zero if BITS == 8 else -128 - zero))
    )
    return tl.full((), value, tl.float32).to(DT)


@triton.jit
def codes(
    low,
    high,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    ZERO: tl.constexpr,
    BITS: tl.constexpr,
    DT: tl.constexpr,
    PTX: tl.constexpr,
):
    """`code - ZERO` as `DT`, exact, of the shape of the words.

    Args:
        low: int16 words with the low bits.
        high: int16 words with the high bits; not read where codes have 4 or 8 bits.
        LOW: which plane of `low`.
        HIGH: which plane of `high`.
        ZERO: what is taken away.
        BITS: of a code.
        DT: tl.float16 or tl.bfloat16.
        PTX: whether inline PTX can be used.
    """
    zero = tl.broadcast_to(prepared(ZERO, BITS, DT, PTX), low.shape)
    if BITS == 4 or BITS == 8:
        result = codes_minus_zero(low, low, zero, LOW, BITS, DT, PTX)
    elif PTX:
        result = tl.inline_asm_elementwise(
            joined_asm(4 * LOW, (BITS - 4) * HIGH, BITS - 4, tl.bfloat16 == DT),
            "=r,r,r,r",
            [low, high, zero],
            dtype=zero.dtype,
            is_pure=True,
            pack=2,
        )
    else:
        width: tl.constexpr = BITS - 4
        code = ((low >> (4 * LOW)) & 15) | (((high >> (width * HIGH)) & ((1 << width) - 1)) << 4)
        result = (code.to(tl.float32) - zero.to(tl.float32)).to(DT)
    return result
