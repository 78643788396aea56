"""TQ2_0 and TQ1_0: 256 columns of -1, 0 or 1 with one scale.

The format of the blocks is that of ggml's `block_tq2_0` and `block_tq1_0`; see the
dequantizers of the `gguf` package.
"""

from __future__ import annotations

from quantload_kernels_cpu.emit.value import I8, Value, joined, vector
from quantload_kernels_cpu.layouts.base import Step, runs
from quantload_kernels_cpu.layouts.superblocks import Superblocks


class Ternary(Superblocks):
    """One scale for all columns, so the codes may stand in any order.

    Args:
        name: of the type.
        nbytes: of a block, whose last two bytes are the scale.
    """

    def __init__(self, name: str, nbytes: int) -> None:
        super().__init__(name, nbytes, (0,) * 16, zero=1, minima=False)

    def _pieces(self) -> tuple[tuple[int, ...], ...]:
        if self.name == "TQ2_0":
            return tuple(runs(32 * field, 128 + 32 * field) for field in range(4))
        return tuple(runs(64 * piece) for piece in range(4))

    def codes(self, step: Step) -> list[Value]:
        """See `Layout.codes`."""
        if self.name == "TQ2_0":
            packed = self.load(step, 0, 64)
            return [(packed >> (2 * field)) & 3 for field in range(4)]
        return [_digit(digits) for digits in self._powers(step)]

    def _powers(self, step: Step) -> list[Value]:
        """Bytes that were multiplied with powers of 3, digit after digit, in pieces."""
        found: list[Value] = []
        for start, count, digits in ((0, 32, 5), (32, 16, 5), (48, 4, 4)):
            value = self.load(step, start, count)
            for _ in range(digits):
                found.extend(_cut(value))
                value = value + value + value
        return [joined(found[first : first + 16]) for first in range(0, 64, 16)]

    def scales(self, step: Step) -> list[Value]:
        """See `Layout.scales`."""
        return [self.halves(step, self.nbytes - 2).lane(0).spread(16)]


def _cut(value: Value) -> list[Value]:
    """In runs of four."""
    return [value.shuffled(range(first, first + 4)) for first in range(0, value.lanes, 4)]


def _digit(fraction: Value) -> Value:
    """The digit of base 3 in front of a fraction of 256: `fraction * 3 // 256`."""
    builder = fraction.builder
    found = fraction.constant(0)
    for least in (86, 171):
        there = builder.icmp_unsigned(">=", fraction.raw, fraction.constant(least).raw)
        found = found + Value(builder, builder.zext(there, vector(I8, fraction.lanes)))
    return found


TERNARY = {layout.name: layout for layout in (Ternary("TQ1_0", 54), Ternary("TQ2_0", 66))}
