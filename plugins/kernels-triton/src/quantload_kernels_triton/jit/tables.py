"""Codes that stand for the entries of a table: looked up in registers, four at a time.

The instruction `prmt` picks four bytes out of eight by four selectors of four bits (PTX
ISA, "prmt"), so a 16-bit register of four codes is a selector as it is. Sixteen entries of
two bytes take two picks for their low bytes, two for their high ones, and a third each to
choose between the halves of the table by the codes' highest bits.

The table is part of the program: which one is a compile-time constant, named as in
`TABLES`. Without PTX (interpreter, other backends), and in float32, a lookup is a chain of
selections.
"""

from __future__ import annotations

import struct

import triton
import triton.language as tl

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Quantiles of the normal distribution (QLoRA, arXiv:2305.14314, appendix E)."""

_FP4 = tuple(twelfths / 12 for twelfths in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0))
FP4 = (*_FP4, 0.0, *(-value for value in _FP4[1:]))
"""Sign, two bits of exponent, one of mantissa, over 12; code 8 is zero, too."""

TABLES = {"nf4": NF4, "fp4": FP4}


def bits_of(value: float, bf16: bool) -> int:
    """A number as 16 bits, rounded to the nearest."""
    if not bf16:
        return int.from_bytes(struct.pack("<e", value), "little")
    wide = int.from_bytes(struct.pack("<f", value), "little")
    return (wide + 0x7FFF + (wide >> 16 & 1)) >> 16


def _registers(table: str, bf16: bool) -> tuple[int, ...]:
    """Low bytes of entries 0-3, 4-7, 8-11, 12-15, then the high bytes."""
    entries = [bits_of(value, bf16) for value in TABLES[table]]
    return tuple(
        sum((entries[at + i] >> shift & 0xFF) << (8 * i) for i in range(4))
        for shift in (0, 8)
        for at in (0, 4, 8, 12)
    )


# Triton lets a compile-time function refer to data, and to no plain function.
_REGISTERS = {(name, bf16): _registers(name, bf16) for name in TABLES for bf16 in (False, True)}


@triton.constexpr_function
def lookup_asm(table: str, bf16: bool) -> str:
    """PTX for all four planes: `$0` to `$3` from the two words in `$4`.

    Planes 0 and 2 of both words make one selector, planes 1 and 3 another.
    """
    names = ("l0", "l1", "l2", "l3", "h0", "h1", "h2", "h3")
    values = zip(names, _REGISTERS[table, bf16], strict=True)
    lines = [f"mov.b32 {name}, 0x{value:08x};" for name, value in values]
    for plane in (0, 1):
        source = "$4"
        if plane:
            lines.append("shr.u32 w, $4, 4;")
            source = "w"
        lines += [
            f"and.b32 v, {source}, 0x0f0f0f0f;",
            "shr.u32 s, v, 12;",
            "or.b32 s, s, v;",  # nibbles: word 0 and word 1 of one plane, then of the other
            "shr.u32 c, s, 1;",
            "lop3.b32 c, c, 0x00004444, 0x00003210, 0xea;",  # (c & 0x4444) | 0x3210
            "and.b32 s, s, 0x00007777;",
            "prmt.b32 a, l0, l1, s; prmt.b32 b, l2, l3, s; prmt.b32 a, a, b, c;",
            "prmt.b32 b, h0, h1, s; prmt.b32 d, h2, h3, s; prmt.b32 b, b, d, c;",
            f"prmt.b32 ${plane}, a, b, 0x00005140;",
            f"prmt.b32 ${plane + 2}, a, b, 0x00007362;",
        ]
    registers = ", ".join((*names, "a", "b", "c", "d", "s", "v", "w"))
    return f"{{ .reg .b32 {registers}; " + " ".join(lines) + " }"


@triton.constexpr_function
def entry(table: str, code: int) -> float:
    """What a code stands for."""
    return TABLES[table][code]


@triton.jit
def looked_up(words, TABLE: tl.constexpr, DT: tl.constexpr, EXACT: tl.constexpr, PTX: tl.constexpr):
    """The values of four planes of int16 words, as a tuple; float32 where `EXACT`, else `DT`."""
    if PTX and not EXACT and tl.bfloat16 == DT:
        planes = tl.inline_asm_elementwise(
            lookup_asm(TABLE, True),
            "=&r,=&r,=&r,=&r,r",
            [words],
            dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=2,
        )
    elif PTX and not EXACT:
        planes = tl.inline_asm_elementwise(
            lookup_asm(TABLE, False),
            "=&r,=&r,=&r,=&r,r",
            [words],
            dtype=(tl.float16, tl.float16, tl.float16, tl.float16),
            is_pure=True,
            pack=2,
        )
    else:
        planes = ()
        for plane in tl.static_range(4):
            code = (words >> (4 * plane)) & 15
            value = tl.full(words.shape, entry(TABLE, 0), tl.float32)
            for other in tl.static_range(1, 16):
                value = tl.where(code == other, entry(TABLE, other), value)
            if not EXACT:
                value = value.to(DT)
            planes = planes + (value,)
    return planes
