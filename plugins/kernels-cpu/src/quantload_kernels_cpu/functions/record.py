"""How `x` is laid out for the products: what `prepare` writes and `few_rows` reads.

A row of `x` is one record a step: the limbs of each piece (64 bytes each, the high limb
first), then for each set and limb the sums that stand for the layout's zero (int32
`[16]`), then the sums of `x` for the minima, then the factor of the step (float32).

A limb is a digit, -128 to 127, in base 256. Two limbs hold a number of 16 bits relative to
the largest of its step, which is finer than a bfloat16 or float16 of that size; three
hold 24, the precision of float32. So the sums are those of integers, exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantload_kernels_cpu.layouts.base import PIECE, Layout

COMMON = (
    "x",
    "x_row_bytes",
    "count",
    "steps",
    "records",
    "out",
    "out_row_bytes",
    "first",
    "rows",
    "counter",
    "chunk",
    "parallel",
    "threads",
    "prepare",
)
"""What every function is given before what describes the weight.

Addresses and sizes in bytes; `count` rows of `x`, `rows` rows of the weight from `first`
on, which threads take from `counter` in runs of `chunk`; the address of
`GOMP_parallel`, or 0, and how many threads there shall be; the address of the function
that fills the records.
"""

ITEM = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number in memory."""

LIMBS = {"float32": 3, "float16": 2, "bfloat16": 2}
"""Limbs that are as precise as a dtype."""


@dataclass(frozen=True)
class Record:
    """Offsets of the parts of a record.

    Args:
        layout: the layout it is for.
        limbs: 2 or 3.
    """

    layout: Layout
    limbs: int

    def limb(self, piece: int, limb: int) -> int:
        """Where the bytes of a limb start."""
        return (piece * self.limbs + limb) * PIECE

    @property
    def _codes_end(self) -> int:
        return len(self.layout.pieces) * self.limbs * PIECE

    def zeros(self, number: int, limb: int) -> int:
        """Where the sums of a set for the layout's zero start."""
        return self._codes_end + (number * self.limbs + limb) * 64

    @property
    def sums(self) -> int:
        """Where the sums for the minima start."""
        sets = len(self.layout.sets) if self.layout.zero else 0
        return self._codes_end + sets * self.limbs * 64

    @property
    def factor(self) -> int:
        """Where the factor stands."""
        return self.sums + 4 * self.layout.minima_count

    @property
    def nbytes(self) -> int:
        """Of a record, a multiple of 64."""
        return -(-(self.factor + 4) // 64) * 64

    @property
    def largest(self) -> int:
        """The integer that the largest number of a step becomes."""
        return 127 << (8 * (self.limbs - 1))
