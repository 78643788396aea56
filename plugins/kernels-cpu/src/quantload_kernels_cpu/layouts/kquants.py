"""Q2_K to Q6_K: blocks of 256 columns in groups whose scales are integers of few bits.

The format of the blocks is that of ggml's `block_q4_K` and its kin; see the dequantizers of
the `gguf` package. The lanes of a register are spread over the groups, so codes are
gathered by whole lanes before their bits are parted.
"""

from __future__ import annotations

from quantload_kernels_cpu.emit.value import I8, I32, Value, vector
from quantload_kernels_cpu.layouts.base import Step
from quantload_kernels_cpu.layouts.superblocks import (
    BYTES,
    DWORDS,
    EIGHT,
    QWORDS,
    Superblocks,
    each_byte,
    merged,
    rotated,
)

SIXTEEN = tuple(8 * (lane // 8) + 2 * (lane % 4) + lane // 4 % 2 for lane in range(16))
"""Groups of 16 columns: lanes of 128 bits hold a half group of 32 columns of bytes, whose lanes
of 32 bits stand for the four bit fields of a byte."""

PLACES = range(4)


class Nibbles(Superblocks):
    """Q4_K, and Q5_K with a fifth bit of each code in other bytes.

    Args:
        name: of the type.
        nbytes: of a block.
        fifth: where the fifth bits start, 0 without any.
        codes: where the nibbles start.
    """

    def __init__(self, name: str, nbytes: int, fifth: int, codes: int) -> None:
        super().__init__(name, nbytes, EIGHT, zero=0, minima=True)
        self.fifth, self.first = fifth, codes

    def codes(self, step: Step) -> list[Value]:
        """See `Layout.codes`."""
        low = self.load(step, self.first, 64).seen_as(QWORDS)
        high = self.load(step, self.first + 64, 64).seen_as(QWORDS)
        fifth = self.load(step, self.fifth, 32).seen_as(vector(QWORDS.element, 4))
        found = []
        for place in PLACES:
            # The nibbles of 32 bytes are two groups, so each quarter of them is wanted twice.
            both = low.shuffled([4 * (group // 2) + place for group in range(8)], high)
            nibbles = both >> both.constant([4 * (group % 2) for group in range(8)])
            if self.fifth:
                bits = rotated(fifth.shuffled([place] * 8), [4 - group for group in range(8)])
                nibbles = each_byte(merged(nibbles, bits, 15), 31)
            else:
                nibbles = each_byte(nibbles, 15)
            found.append(nibbles.seen_as(BYTES))
        return found

    def _both(self, step: Step) -> Value:
        """float32 `[16]`: eight scales and eight minima, out of twelve bytes of six-bit numbers."""
        if "both" not in step.memory:
            words = self.load(step, 0, 16).seen_as(vector(I32, 4))
            first = words.shuffled([1, 3, 2, 3])
            first = first >> first.constant([0, 0, 0, 4])
            first = first & first.constant([0x3F3F3F3F, 0x0F0F0F0F, 0x3F3F3F3F, 0x0F0F0F0F])
            top = words.shuffled([1, 1, 2, 2]) >> 2
            top = top & top.constant([0, 0x30303030, 0, 0x30303030])
            numbers = (first | top).seen_as(vector(I8, 16)).widened(I32).to_float()
            factors = self.halves(step, 0, 2).shuffled([0] * 8 + [1] * 8)
            step.memory["both"] = numbers * factors
        return step.memory["both"]

    def scales(self, step: Step) -> list[Value]:
        """See `Layout.scales`."""
        return self.by_lane(self._both(step))

    def minima(self, step: Step) -> Value | None:
        """See `Layout.minima`."""
        return self._both(step).shuffled(range(8, 16))


class Quarters(Superblocks):
    """Q2_K, and Q3_K with a third bit of each code in other bytes."""

    def __init__(self, name: str, nbytes: int, zero: int) -> None:
        super().__init__(name, nbytes, SIXTEEN, zero=zero, minima=name == "Q2_K")

    def codes(self, step: Step) -> list[Value]:
        """See `Layout.codes`."""
        third = self.name == "Q3_K"
        pairs = self.load(step, 32 if third else 16, 64).seen_as(DWORDS)
        found = []
        for place in PLACES:
            # One word of each 16 bytes, once for each of the fields of its bytes.
            words = pairs.shuffled([lane // 4 * 4 + place for lane in range(16)])
            fields = words >> words.constant([2 * (lane % 4) for lane in range(16)])
            if third:
                mask = self.load(step, 0, 32).seen_as(vector(I32, 8))
                bits = mask.shuffled([lane // 4 % 2 * 4 + place for lane in range(16)])
                bits = rotated(bits, [2 - (lane // 8 * 4 + lane % 4) for lane in range(16)])
                fields = each_byte(merged(fields, bits, 3), 7)
            else:
                fields = each_byte(fields, 3)
            found.append(fields.seen_as(BYTES))
        return found

    def scales(self, step: Step) -> list[Value]:
        """See `Layout.scales`."""
        if self.name == "Q2_K":
            numbers = self.load(step, 0, 16) & 15
            return self.by_lane(
                numbers.widened(I32).to_float() * self.halves(step, 80).lane(0).spread(16)
            )
        words = self.load(step, 96, 8).seen_as(vector(I32, 2)).shuffled([0, 1, 0, 1])
        low = words >> words.constant([0, 0, 4, 4])
        words = self.load(step, 104, 4).seen_as(vector(I32, 1)).shuffled([0] * 4)
        high = each_byte(rotated(words, [4, 2, 0, -2]), 48)
        numbers = (each_byte(low, 15) | high).seen_as(vector(I8, 16)).widened(I32) - 32
        return self.by_lane(numbers.to_float() * self.halves(step, 108).lane(0).spread(16))

    def minima(self, step: Step) -> Value | None:
        """See `Layout.minima`."""
        if self.name != "Q2_K":
            return None
        numbers = (self.load(step, 0, 16) >> 4).widened(I32).to_float()
        return numbers * self.halves(step, 82).lane(0).spread(16)


class Sixths(Superblocks):
    """Q6_K: a nibble and two bits of each code, and signed bytes as scales."""

    def __init__(self, name: str, nbytes: int) -> None:
        super().__init__(name, nbytes, SIXTEEN, zero=32, minima=False)

    def codes(self, step: Step) -> list[Value]:
        """See `Layout.codes`."""
        parts = [self.load(step, offset, 32) for offset in (0, 64, 32, 96)]
        first, second = (parts[i].shuffled(range(64), parts[i + 1]).seen_as(DWORDS) for i in (0, 2))
        pairs = self.load(step, 128, 64).seen_as(DWORDS)
        quarters = [
            merged(first, pairs << 4, 15),
            merged(second, pairs << 2, 15),
            merged(first >> 4, pairs, 15),
            merged(second >> 4, pairs >> 2, 15),
        ]
        return [part.seen_as(BYTES) for part in transposed([each_byte(q, 63) for q in quarters])]

    def scales(self, step: Step) -> list[Value]:
        """See `Layout.scales`."""
        numbers = self.load(step, 192, 16).widened_signed(I32).to_float()
        return self.by_lane(numbers * self.halves(step, 208).lane(0).spread(16))


def transposed(rows: list[Value]) -> list[Value]:
    """Four vectors `[16]` as four matrices of 4 x 4 side by side, each transposed."""
    a, b, c, d = rows
    low = [4 * i + j for i in range(4) for j in (0, 16, 1, 17)]
    high = [place + 2 for place in low]
    first, second, third, fourth = (
        a.shuffled(low, b),
        a.shuffled(high, b),
        c.shuffled(low, d),
        c.shuffled(high, d),
    )
    low = [4 * i + j for i in range(4) for j in (0, 1, 16, 17)]
    high = [place + 2 for place in low]
    return [
        first.shuffled(low, third),
        first.shuffled(high, third),
        second.shuffled(low, fourth),
        second.shuffled(high, fourth),
    ]


K_QUANTS = {
    layout.name: layout
    for layout in (
        Quarters("Q2_K", 84, zero=0),
        Quarters("Q3_K", 110, zero=4),
        Nibbles("Q4_K", 144, fifth=0, codes=16),
        Nibbles("Q5_K", 176, fifth=16, codes=48),
        Sixths("Q6_K", 210),
    )
}
