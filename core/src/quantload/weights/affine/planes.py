"""The canonical storage of codes: per output row, planes of bits packed along the columns.

A code of 2, 4 or 8 bits is one plane. Other widths are split into planes of 4, 2 and
1 bits (3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1; the low bits come first), so
that no code crosses a byte and a plane can be read with one shift and one mask. A row
holds its planes one after the other. In a plane, column `k` has the bits
`[k * width, (k + 1) * width)` of a little-endian stream. The number of columns is
rounded up to a multiple of 32, which makes every plane a whole number of 32-bit words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.weights.affine.fields import gather, spread

PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
"""Bits of a code -> widths of its planes, the low bits first."""

BLOCK = 32
"""Rows are padded to a multiple of this many columns."""


def padded(columns: int) -> int:
    """Columns of a row with its padding."""
    return -(-columns // BLOCK) * BLOCK


def row_bytes(columns: int, bits: int) -> int:
    """Bytes of a packed row."""
    return padded(columns) * bits // 8


def pack_planes(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 `[rows, columns]`, each below `2**bits`, as uint8 `[rows, row_bytes]`."""
    missing = padded(codes.shape[-1]) - codes.shape[-1]
    codes = F.pad(codes, (0, missing)) if missing else codes
    parts, offset = [], 0
    for width in PLANES[bits]:
        plane = codes if bits == width else (codes >> offset) & ((1 << width) - 1)
        parts.append(gather(plane, width))
        offset += width
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def unpack_planes(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The inverse of `pack_planes`: uint8 `[rows, columns]`; may be a view of `packed`."""
    total = padded(columns)
    codes: Tensor | None = None
    start, offset = 0, 0
    for width in PLANES[bits]:
        stop = start + total * width // 8
        plane = spread(packed[..., start:stop], width)
        codes = plane if codes is None else codes | (plane << offset)
        start, offset = stop, offset + width
    assert codes is not None
    return codes[..., :columns]
