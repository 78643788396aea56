"""What a weight in blocks consists of, and where its tensors keep it.

A weight is `scale * (code - zero) + offset`. Codes have 4, 5, 6 or 8 bits; the scale and
the offset belong to 32 columns, or to 256 and are multiplied by small integers, *steps*,
of 32 or 16 columns. Rows stand in tiles of 16 as in `geometry`, in the order in which a
warp holds the left operand of m16n8k16: lane `4 g + t` has the rows `g` and `g + 8`.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantload_kernels_triton.geometry import TILE, Geometry

SUPER = 256
"""Columns that share a scale where there are steps."""
GROUP = 32


@dataclass(frozen=True)
class Form:
    """One kind of block.

    Attributes:
        bits: of a code: 4, 5, 6 or 8.
        zero: the code that stands for no weight at all, before an offset.
        offsets: whether there are offsets. With steps of scales there are steps of offsets,
            *minima*, and offsets are taken away.
        steps: columns that share a step, 16 (signed bytes, without offsets) or 32 (unsigned
            bytes, with offsets); 0 where scales belong to 32 columns.
    """

    bits: int
    zero: int
    offsets: bool
    steps: int

    @property
    def low_bits(self) -> int:
        """Bits of a code in the words `low`: all, or four."""
        return 8 if self.bits == 8 else 4

    @property
    def high_bits(self) -> int:
        """Bits of a code in the words `high`; 0 where there are none."""
        return self.bits - self.low_bits

    @property
    def unit(self) -> int:
        """Columns of a unit of `low`."""
        return 256 // self.low_bits

    def low(self, rows: int, columns: int) -> Geometry:
        """The words `low`."""
        return Geometry(self.low_bits, rows, columns)

    def high(self, rows: int, columns: int) -> Geometry:
        """The words `high`."""
        return _Narrow(self.high_bits, rows, columns)

    def scales_shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """Scales, float16: tiles, groups, 8 g, 2 halves of 16 rows, scale and offset."""
        width = SUPER if self.steps else GROUP
        return (-(-rows // TILE), -(-columns // width), 8, 2, 1 + self.offsets)

    def steps_shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """Steps of scales, words of four bytes: tiles, pairs of steps, 8 g.

        The bytes are the steps of the rows `g` and `g + 8`, first the one of a pair, then
        the other.
        """
        return (-(-rows // TILE), -(-columns // (2 * self.steps)), 8)

    def minima_shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """Steps of offsets, words of four bytes: tiles, 256 columns, lanes `4 g + t`.

        A lane's bytes are those of the groups `2 t` and `2 t + 1`, first of row `g`, then
        of row `g + 8`: its part of a left operand with a column for each group.
        """
        return (-(-rows // TILE), -(-columns // SUPER), 32)


class _Narrow(Geometry):
    """Words of one or two bits, which are all of a width that divides 16."""

    @property
    def planes(self) -> int:
        return 16 // self.bits

    @property
    def blocks(self) -> int:
        return 1
