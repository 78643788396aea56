"""The older ggml types: blocks of 32 codes behind a half (Q4_0, Q5_0, Q8_0) or two (Q4_1, Q5_1).

The format of the blocks is that of ggml's `block_q4_0` and its kin; see the dequantizers
of the `gguf` package.
"""

from __future__ import annotations

from quantload_kernels_cpu.emit.function import Writer
from quantload_kernels_cpu.emit.value import F16, I8, I16, Value, joined, vector
from quantload_kernels_cpu.layouts.base import Layout, Step, runs

BLOCK = 32


class Legacy(Layout):
    """Four blocks a step.

    Args:
        name: of the type.
        nbytes: of a block.
        halves: 1 where there is a scale, 2 with a minimum (added, so stored negative of ours).
        zero: see `Layout`.
    """

    arguments = ("blocks", "row_bytes")
    columns = 4 * BLOCK

    def __init__(self, name: str, nbytes: int, halves: int, zero: int) -> None:
        self.name, self.nbytes, self.halves, self.zero = name, nbytes, halves, zero
        self.minimum_columns = BLOCK if halves == 2 else 0
        if name == "Q8_0":
            self.pieces = (runs(0), runs(64))
            self.sets = ((0,), (1,))
        else:
            self.pieces = (runs(0, 32, 64, 96), runs(16, 48, 80, 112))
            self.sets = ((0, 1),)

    def row(self, writer: Writer, row: Value) -> dict[str, Value]:
        """See `Layout.row`."""
        return {"blocks": writer["blocks"] + row * writer["row_bytes"]}

    def _start(self, step: Step) -> Value:
        return step.row["blocks"] + step.index * (4 * self.nbytes)

    def stream(self, step: Step) -> tuple[Value, int] | None:
        """See `Layout.stream`."""
        return self._start(step), 4 * self.nbytes

    def _blocks(self, step: Step, offset: int, lanes: int) -> list[Value]:
        """Bytes of the four blocks from an offset; of blocks that are not there, zeros."""
        start, found = self._start(step), []
        for block in range(4):
            if block * BLOCK < step.columns:
                place = block * self.nbytes + offset
                found.append(step.writer.load(vector(I8, lanes), start, place))
            else:
                found.append(found[0].constant(0))
        return found

    def codes(self, step: Step) -> list[Value]:
        """See `Layout.codes`."""
        head = 2 * self.halves
        if self.name == "Q8_0":
            whole = self._blocks(step, head, 32)
            return [joined(whole[:2]) ^ 0x80, joined(whole[2:]) ^ 0x80]
        packed = joined(self._blocks(step, head + (4 if self._high else 0), 16))
        low, high = packed & 15, packed >> 4
        if self._high:
            fifth = self._fifth_bits(step, head)
            low, high = low | fifth[0], high | fifth[1]
        return [low, high]

    @property
    def _high(self) -> bool:
        return self.name.startswith("Q5")

    def _fifth_bits(self, step: Step, head: int) -> list[Value]:
        """16 or 0 for the codes of both pieces: bit `column` of a 32-bit word of each block."""
        words = [word.seen_as(vector(I8, 4)) for word in self._blocks(step, head, 4)]
        whole = joined(words)
        bits = whole.constant([0] * 16)
        del bits
        pieces = []
        for half in (0, 1):
            mask = [4 * (lane // 16) + 2 * half + lane % 16 // 8 for lane in range(64)]
            each = whole.shuffled(mask)
            places = each.constant([1 << (lane % 8) for lane in range(64)])
            pieces.append(_set_where(each & places, 16))
        return pieces

    def _halves_of(self, step: Step, offset: int) -> Value:
        """float32 `[4]`, one half of each block; 0 where a block is not there."""
        start, found = self._start(step), []
        for block in range(4):
            if block * BLOCK < step.columns:
                found.append(step.writer.load(vector(I16, 1), start, block * self.nbytes + offset))
            else:
                found.append(found[0].constant(0))
        return joined(found).seen_as(vector(F16, 4)).to_float()

    def scales(self, step: Step) -> list[Value]:
        """See `Layout.scales`."""
        each = self._halves_of(step, 0)
        if self.name == "Q8_0":
            return [each.shuffled([first + lane // 8 for lane in range(16)]) for first in (0, 2)]
        return [each.shuffled([lane // 4 for lane in range(16)])]

    def minima(self, step: Step) -> Value | None:
        """See `Layout.minima`."""
        if self.halves == 1:
            return None
        return self._halves_of(step, 2) * -1.0


def _set_where(bits: Value, value: int) -> Value:
    """`value` in every byte that is not 0."""
    builder = bits.builder
    there = builder.icmp_unsigned("!=", bits.raw, bits.constant(0).raw)
    return Value(builder, builder.select(there, bits.constant(value).raw, bits.constant(0).raw))


LEGACY = {
    name: Legacy(name, nbytes, halves, zero)
    for name, nbytes, halves, zero in (
        ("Q4_0", 18, 1, 8),
        ("Q4_1", 20, 2, 0),
        ("Q5_0", 22, 1, 16),
        ("Q5_1", 24, 2, 0),
        ("Q8_0", 34, 1, 128),
    )
}
