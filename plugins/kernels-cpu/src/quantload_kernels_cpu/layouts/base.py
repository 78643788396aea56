"""`Layout`: what a product has to know of the bytes of a weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from quantload_kernels_cpu.emit.function import Writer
from quantload_kernels_cpu.emit.value import Value

PIECE = 64
"""Columns of a piece: the codes that fill one register of 512 bits."""

LANE = 4
"""Codes that a lane of sums adds."""


@dataclass
class Step:
    """The step of a row that is being read.

    Attributes:
        writer: the function.
        row: addresses of what belongs to the row, by name.
        index: int64, number of the step.
        columns: how many of its columns the weight has; all, but in a last step.
    """

    writer: Writer
    row: dict[str, Value]
    index: Value
    columns: int
    memory: dict[str, Value] = field(default_factory=dict)


class Layout(ABC):
    """A step is a number of columns; its codes come as pieces of 64, in any order.

    Pieces whose lanes have the same scales form a set and are summed before they are
    scaled. The value of a code is `(code - zero) * scale - minimum`.
    """

    name: str
    """Of the compiled functions; two layouts of one name are the same code."""

    arguments: tuple[str, ...]
    """Names of the 64-bit numbers that describe a weight: addresses and sizes."""

    columns: int
    """Columns of a step."""

    pieces: tuple[tuple[int, ...], ...]
    """For each piece, the columns of its 64 codes within the step."""

    sets: tuple[tuple[int, ...], ...]
    """Numbers of the pieces that share their scales."""

    zero: int = 0
    """What is subtracted from every code, 0 to 128."""

    minimum_columns: int = 0
    """Columns that share a minimum; 0 of a layout without."""

    @property
    def minima_count(self) -> int:
        """Minima of a step."""
        return self.columns // self.minimum_columns if self.minimum_columns else 0

    @abstractmethod
    def row(self, writer: Writer, row: Value) -> dict[str, Value]:
        """Addresses of what belongs to a row, by number of the row."""

    @abstractmethod
    def codes(self, step: Step) -> list[Value]:
        """Bytes `[64]` for each piece; those of columns that are not there are 0."""

    @abstractmethod
    def scales(self, step: Step) -> list[Value]:
        """float32 `[16]` for each set: the scale of the four codes of each lane.

        Finite where a column is not there.
        """

    def stream(self, step: Step) -> tuple[Value, int] | None:
        """Address and number of the bytes that make up most of a step, if they lie together."""
        del step
        return None

    def minima(self, step: Step) -> Value | None:
        """float32 `[minima_count]`, a scalar of one; finite where a column is not there."""
        del step
        return None


def runs(*starts: int) -> tuple[int, ...]:
    """The columns of a piece made of as many equal runs of neighbouring columns."""
    length = PIECE // len(starts)
    return tuple(start + index for start in starts for index in range(length))
