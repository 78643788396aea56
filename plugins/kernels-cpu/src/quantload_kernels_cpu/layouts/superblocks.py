"""`Superblocks`: what the ggml types of 256 columns a block have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from quantload_kernels_cpu.emit.function import Writer
from quantload_kernels_cpu.emit.value import F16, I8, I16, I32, I64, Value, vector
from quantload_kernels_cpu.layouts.base import PIECE, Layout, Step

COLUMNS = 256

EIGHT = tuple(lane // 2 for lane in range(16))
"""Groups of 32 columns: two neighbouring lanes each."""


class Superblocks(Layout):
    """A block a step, whose four pieces share their scales: lane by lane, the same group.

    So a product scales its sums once a block, and not once a piece.

    Args:
        name: of the type.
        nbytes: of a block.
        lane_groups: the group of columns that each of the 16 lanes belongs to.
        zero: see `Layout`.
    """

    arguments = ("blocks", "row_bytes")
    columns = COLUMNS
    sets = ((0, 1, 2, 3),)

    def __init__(
        self, name: str, nbytes: int, lane_groups: Sequence[int], zero: int, minima: bool
    ) -> None:
        self.name, self.nbytes, self.zero = name, nbytes, zero
        self.lane_groups = tuple(lane_groups)
        self.group = COLUMNS // len(set(lane_groups))
        self.minimum_columns = self.group if minima else 0
        self.pieces = self._pieces()

    def _pieces(self) -> tuple[tuple[int, ...], ...]:
        """The lanes of a group share its columns, each lane four in each piece."""
        lanes = {group: self.lane_groups.count(group) for group in self.lane_groups}
        pieces = []
        for piece in range(COLUMNS // PIECE):
            columns: list[int] = []
            for lane, group in enumerate(self.lane_groups):
                place = self.lane_groups[:lane].count(group)
                first = group * self.group + 4 * (piece * lanes[group] + place)
                columns.extend(range(first, first + 4))
            pieces.append(tuple(columns))
        return tuple(pieces)

    def row(self, writer: Writer, row: Value) -> dict[str, Value]:
        """See `Layout.row`."""
        return {"blocks": writer["blocks"] + row * writer["row_bytes"]}

    def stream(self, step: Step) -> tuple[Value, int] | None:
        """See `Layout.stream`."""
        return step.row["blocks"] + step.index * self.nbytes, self.nbytes

    def load(self, step: Step, offset: int, lanes: int) -> Value:
        """Bytes of the block from an offset."""
        start = step.row["blocks"] + step.index * self.nbytes
        return step.writer.load(vector(I8, lanes), start, offset)

    def halves(self, step: Step, offset: int, count: int = 1) -> Value:
        """float32 `[count]` of as many halves."""
        bits = self.load(step, offset, 2 * count)
        return bits.seen_as(vector(I16, count)).seen_as(vector(F16, count)).to_float()

    def by_lane(self, scales: Value) -> list[Value]:
        """Scales of the groups, float32, for the lanes of the only set."""
        return [scales.shuffled(self.lane_groups)]

    @abstractmethod
    def scales(self, step: Step) -> list[Value]:
        """See `Layout.scales`."""


QWORDS, DWORDS = vector(I64, 8), vector(I32, 16)
BYTES = vector(I8, 64)


def each_byte(value: Value, mask: int) -> Value:
    """The bits of every byte that a mask names, whatever the lanes are."""
    bits: int = value.element.width
    return value & (mask * (((1 << bits) - 1) // 255))


def rotated(value: Value, by: Sequence[int]) -> Value:
    """Every lane rotated to the left by its own number of bits, which may be negative."""
    bits: int = value.element.width
    distance = value.constant([number % bits for number in by])
    return value._call(f"llvm.fshl.{value._suffix()}", value.type, value, distance)


def merged(value: Value, other: Value, mask: int) -> Value:
    """The bits of every byte that a mask names from `value`, and the rest of `other`."""
    return each_byte(value, mask) | each_byte(other, 255 & ~mask)
