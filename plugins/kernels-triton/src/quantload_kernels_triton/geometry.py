"""The shape of the arrangement: tiles of 16 rows, units of columns, blocks of 16-bit words.

A block is 16 rows by 16 words of 16 bits, in the order in which the 32 lanes of a
warp hold the left operand of the tensor-core product m16n8k16: lane `4 * g + t` owns
16 contiguous bytes, the words of rows `g` and `g + 8` and of the columns `2t`,
`2t + 1`, `2t + 8`, `2t + 9` (PTX ISA, "Matrix Fragments for mma.m16n8k16"). So a lane
reads its words with one load, and no data ever moves between lanes.

A word holds one code each of several *planes*: plane `j` of a unit is its columns
`16 j` to `16 j + 15`. The 16 words of a row thus cover a unit of 16 columns a plane:

    bits  blocks of a unit                 planes  columns of a unit
    2     one, fields of 2 bits             8      128
    3     two of 2 low bits, one of high   16      256
    4     one, fields of 4 bits             4       64
    8     one, fields of 8 bits             2       32
"""

from __future__ import annotations

from dataclasses import dataclass

PLANES = {2: 8, 3: 16, 4: 4, 8: 2}
BLOCKS = {2: 1, 3: 3, 4: 1, 8: 1}
TILE = 16
BLOCK_WORDS = 256


@dataclass(frozen=True)
class Geometry:
    """Sizes of an arranged weight.

    Attributes:
        bits: bits of a code: 2, 3, 4 or 8.
        rows: `out_features`.
        columns: `in_features`.
    """

    bits: int
    rows: int
    columns: int

    @property
    def planes(self) -> int:
        """Planes of a unit; the dot of one plane has a depth of 16."""
        return PLANES[self.bits]

    @property
    def blocks(self) -> int:
        """Blocks of words of a unit."""
        return BLOCKS[self.bits]

    @property
    def unit(self) -> int:
        """Columns of a unit."""
        return 16 * self.planes

    @property
    def tiles(self) -> int:
        """Tiles of 16 rows; the last may be padded."""
        return -(-self.rows // TILE)

    @property
    def units(self) -> int:
        """Units of columns; the last may be padded."""
        return -(-self.columns // self.unit)

    @property
    def padded_rows(self) -> int:
        """Rows with the padding."""
        return self.tiles * TILE

    @property
    def padded_columns(self) -> int:
        """Columns with the padding."""
        return self.units * self.unit

    @property
    def words_shape(self) -> tuple[int, int, int, int]:
        """Shape of the int16 words: tiles, units, blocks of a unit, words of a block."""
        return (self.tiles, self.units, self.blocks, BLOCK_WORDS)
