"""The storage of torch's int4 matmul on x86: tiles of rows, two codes to a byte.

Source: `weight_to_int4pack_kernel` in ATen/native/cpu/int4mm_kernel.cpp. A tile has 64
rows with AVX-512 and 32 with AVX2. For each column, a tile stores its codes one after
the other: byte `j` has row `j` in its low nibble and row `j + tile / 2` in its high one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack(codes: Tensor, tile: int) -> Tensor:
    """Codes below 16, uint8 `[rows, columns]`, as `[rows, columns // 2]` in tiles."""
    rows, columns = codes.shape
    halves = codes.view(rows // tile, 2, tile // 2, columns)
    both = halves[:, 0] | (halves[:, 1] << 4)
    return both.transpose(1, 2).contiguous().view(rows, columns // 2)


def pack_nibbles(packed: Tensor, run: int, tile: int) -> Tensor:
    """The same from codes that are two to a byte already.

    Args:
        packed: uint8 `[rows, columns // 2]`; of each `2 * run` columns the first `run`
            are in the low nibbles of `run` bytes and the others in the high ones.
        run: see `packed`.
        tile: rows of a tile.
    """
    rows, width = packed.shape
    halves = packed.view(rows // tile, 2, tile // 2, width)
    low = (halves[:, 0] & 15) | (halves[:, 1] << 4)
    high = (halves[:, 0] >> 4) | (halves[:, 1] & 240)
    found = packed.new_empty(rows // tile, width // run, 2, run, tile // 2)
    for place, part in enumerate((low, high)):
        found[:, :, place] = part.view(rows // tile, tile // 2, -1, run).permute(0, 2, 3, 1)
    return found.view(rows, width)


def unpack(packed: Tensor, tile: int) -> Tensor:
    """The inverse of `pack`."""
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    both = packed.view(rows // tile, columns, tile // 2).transpose(1, 2)
    return torch.stack([both & 15, both >> 4], dim=1).view(rows, columns)


def rows_of(packed: Tensor, tile: int, ids: Tensor) -> Tensor:
    """The codes of some rows, `[len(ids), columns]`."""
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    place = ids % tile
    tiles = packed.view(rows // tile, columns, tile // 2)
    both = tiles[ids // tile, :, place % (tile // 2)]
    return torch.where((place >= tile // 2).unsqueeze(1), both >> 4, both & 15)


_found: list[int] = []


def tile_rows() -> int:
    """Rows of a tile on this machine; 0 where torch packs in a way that is not known."""
    # not a functools.cache: torch.compile looks through one and traces what is in it
    if not _found:
        _found.append(_found_out())
    return _found[0]


def _found_out() -> int:
    pattern = torch.arange(128 * 64, dtype=torch.int32, device="cpu") * 2654435761 // 65536 % 16
    codes = pattern.view(128, 64)
    try:
        packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
    except (AttributeError, RuntimeError):
        return 0
    for tile in (64, 32):
        if torch.equal(packed, pack(codes.to(torch.uint8), tile)):
            return tile
    return 0
