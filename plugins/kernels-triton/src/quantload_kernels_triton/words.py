"""Codes to words and back, in plain torch; `geometry` says what stands where."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload_kernels_triton.geometry import BLOCK_WORDS, TILE, Geometry

_TILES_AT_ONCE = 1 << 26
"""Bound on the elements that are in flight as wide integers."""


def tile_runs(geometry: Geometry) -> Iterator[slice]:
    """Runs of tiles that are converted together."""
    step = max(1, _TILES_AT_ONCE // (geometry.padded_columns * TILE))
    for start in range(0, geometry.tiles, step):
        yield slice(start, min(start + step, geometry.tiles))


def rows_of(tiles: slice, geometry: Geometry) -> slice:
    """The rows of a run of tiles, without padding."""
    return slice(tiles.start * TILE, min(tiles.stop * TILE, geometry.rows))


def pack(codes: Tensor, geometry: Geometry) -> Tensor:
    """Words of the codes of a run of tiles.

    Args:
        codes: uint8 `[rows, columns]`; rows that are missing to whole tiles are padded.
        geometry: of the whole weight.

    Returns:
        int16 `[tiles, units, blocks, 256]`.
    """
    rows, columns = codes.shape
    tiles = -(-rows // TILE)
    codes = F.pad(codes, (0, geometry.padded_columns - columns, 0, tiles * TILE - rows))
    # rows: r8, g; columns: unit, plane, k8, t, p
    grid = codes.view(tiles, 2, 8, geometry.units, geometry.planes, 2, 4, 2)
    grid = grid.permute(0, 3, 2, 6, 5, 1, 7, 4)  # tile, unit, g, t, k8, r8, p, plane
    shape = (tiles, geometry.units, BLOCK_WORDS)
    if geometry.bits != 3:
        return _gather(grid, geometry.bits).reshape(*shape[:2], 1, BLOCK_WORDS)
    low, high = grid & 3, grid >> 2
    parts = [low[..., :8], low[..., 8:], high]
    words = [
        _gather(part, width).reshape(shape) for part, width in zip(parts, (2, 2, 1), strict=True)
    ]
    return torch.stack(words, dim=2)


def unpack(words: Tensor, geometry: Geometry) -> Tensor:
    """The inverse of `pack`: uint8 `[tiles * 16, columns]`, padded rows included."""
    tiles, units = words.shape[:2]
    if geometry.bits != 3:
        grid = _spread(words[:, :, 0], geometry.bits, geometry.planes)
    else:
        low = [_spread(words[:, :, block], 2, 8) for block in (0, 1)]
        grid = torch.cat(low, dim=-1) | (_spread(words[:, :, 2], 1, 16) << 2)
    grid = grid.view(tiles, units, 8, 4, 2, 2, 2, geometry.planes)
    grid = grid.permute(0, 5, 2, 1, 7, 4, 3, 6)  # tile, r8, g, unit, plane, k8, t, p
    return grid.reshape(tiles * TILE, geometry.padded_columns)[:, : geometry.columns]


def from_bytes(packed: Tensor, geometry: Geometry) -> Tensor:
    """Words of a whole weight of 4 bits, from two codes a byte, the first in the high half.

    Args:
        packed: uint8, `rows * columns / 2` of them; `columns` is even.
        geometry: of the weight.
    """
    halves = packed.view(geometry.rows, geometry.columns // 2)
    made = []
    for tiles in tile_runs(geometry):
        part = halves[rows_of(tiles, geometry)]
        codes = torch.stack([part >> 4, part & 15], -1).view(part.shape[0], geometry.columns)
        made.append(pack(codes, geometry))
    return made[0] if len(made) == 1 else torch.cat(made)


def to_bytes(words: Tensor, geometry: Geometry) -> Tensor:
    """The inverse of `from_bytes`, flat."""
    made = []
    for tiles in tile_runs(geometry):
        rows = rows_of(tiles, geometry)
        codes = unpack(words[tiles], geometry)[: rows.stop - rows.start]
        made.append((codes[:, ::2] << 4 | codes[:, 1::2]).reshape(-1))
    return made[0] if len(made) == 1 else torch.cat(made)


def _gather(fields: Tensor, width: int) -> Tensor:
    """Fields uint8 `[..., n]` of `width` bits as int16 words `[...]`, the first lowest."""
    words = fields[..., 0].to(torch.int32)
    for index in range(1, fields.shape[-1]):
        words |= fields[..., index].to(torch.int32) << (index * width)
    return words.to(torch.int16)  # wraps: the bits are what counts


def _spread(words: Tensor, width: int, count: int) -> Tensor:
    """The inverse of `_gather`, uint8 `[..., count]`."""
    shifts = torch.arange(count, device=words.device, dtype=torch.int32) * width
    wide = words.to(torch.int32)[..., None] >> shifts
    return (wide & ((1 << width) - 1)).to(torch.uint8)
