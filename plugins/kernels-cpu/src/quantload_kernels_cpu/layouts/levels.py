"""IQ4_NL, IQ4_XS and MXFP4: codes of four bits that number uneven levels.

The format of the blocks is that of ggml's `block_iq4_nl`, `block_iq4_xs` and
`block_mxfp4`; see the dequantizers of the `gguf` package. The levels are looked up in the
register, sixteen bytes at a time, and are stored with what makes them positive added.
"""

from __future__ import annotations

from quantload_kernels_cpu import settings
from quantload_kernels_cpu.emit.value import F32, I8, I16, I32, Value, joined, vector
from quantload_kernels_cpu.layouts.base import Step
from quantload_kernels_cpu.layouts.legacy import BLOCK, Legacy
from quantload_kernels_cpu.layouts.superblocks import (
    BYTES,
    EIGHT,
    QWORDS,
    Superblocks,
    each_byte,
    rotated,
)

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""The levels of IQ4_NL and IQ4_XS."""

DOUBLED_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice the floats of MXFP4."""


def looked_up(codes: Value, levels: tuple[int, ...], zero: int) -> Value:
    """`levels[code] + zero` of codes from 0 to 15, bytes `[64]`."""
    table = [level + zero for level in levels] * 4
    if settings.has("avx512bw"):
        return codes.constant(table)._call("llvm.x86.avx512.pshuf.b.512", BYTES, codes)
    half, found = vector(I8, 32), []
    for start in (0, 32):
        part = codes.shuffled(range(start, start + 32))
        found.append(part.constant(table[:32])._call("llvm.x86.avx2.pshuf.b", half, part))
    return joined(found)


class UnevenBlocks(Legacy):
    """IQ4_NL and MXFP4: nibbles as in Q4_0.

    Args:
        name: of the type.
        nbytes: of a block.
        levels: what the codes stand for.
        zero: what makes them positive.
    """

    def __init__(self, name: str, nbytes: int, levels: tuple[int, ...], zero: int) -> None:
        super().__init__(name, nbytes, 1, zero)
        self.levels = levels
        self.head = nbytes - BLOCK // 2

    def codes(self, step: Step) -> list[Value]:
        """See `Layout.codes`."""
        packed = joined(self._blocks(step, self.head, 16))
        return [looked_up(half, self.levels, self.zero) for half in (packed & 15, packed >> 4)]

    def scales(self, step: Step) -> list[Value]:
        """See `Layout.scales`."""
        if self.head == 2:
            return super().scales(step)
        exponents = joined(self._blocks(step, 0, 1)).widened(I32)
        # 2 ** (e - 128), of which the first two have no bit before their point.
        usual = (exponents - 1) << 23
        builder = step.writer.builder
        small = builder.icmp_unsigned("<", exponents.raw, exponents.constant(2).raw)
        tiny = (exponents + 1) << 21
        bits = Value(builder, builder.select(small, tiny.raw, usual.raw))
        each = bits.seen_as(vector(F32, 4))
        return [each.shuffled([lane // 4 for lane in range(16)])]


class UnevenSuperblocks(Superblocks):
    """IQ4_XS: eight groups of 32 columns with scales of six bits."""

    def __init__(self) -> None:
        super().__init__("IQ4_XS", 136, EIGHT, zero=128, minima=False)

    def codes(self, step: Step) -> list[Value]:
        """See `Layout.codes`."""
        first, second = (self.load(step, at, 64).seen_as(QWORDS) for at in (8, 72))
        found = []
        for place in range(4):
            # Low nibbles are the first half of a group, high ones the other.
            picked = first.shuffled([2 * group + place % 2 for group in range(8)], second)
            nibbles = each_byte(picked >> (4 if place > 1 else 0), 15).seen_as(BYTES)
            found.append(looked_up(nibbles, IQ4, self.zero))
        return found

    def scales(self, step: Step) -> list[Value]:
        """See `Layout.scales`."""
        low = self.load(step, 4, 4).seen_as(vector(I32, 1)).shuffled([0, 0])
        low = each_byte(low >> low.constant([0, 4]), 15).seen_as(vector(I8, 8))
        low = low.shuffled([half * 4 + byte for byte in range(4) for half in (0, 1)])
        high = self.load(step, 2, 2).seen_as(vector(I16, 1)).widened(I32).shuffled([0] * 8)
        high = rotated(high, [4 - 2 * group for group in range(8)]) & 48
        numbers = (low.widened(I32) | high) - 32
        return self.by_lane(numbers.to_float() * self.halves(step, 0).lane(0).spread(8))


LEVELS = {
    layout.name: layout
    for layout in (
        UnevenBlocks("IQ4_NL", 18, IQ4, zero=128),
        UnevenBlocks("MXFP4", 17, DOUBLED_E2M1, zero=12),
        UnevenSuperblocks(),
    )
}
