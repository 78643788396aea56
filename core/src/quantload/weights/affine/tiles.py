"""The tile permutations of Marlin, the layout for tensor cores that some files ship in.

Source: the packers of auto-gptq 0.7 and autoawq 0.2. Codes are cut into tiles of 16
columns by 16 rows; four neighbouring tiles (1024 codes) are reordered so that each
thread of a warp finds the fragments of its `mma` instructions in consecutive words.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from quantload.weights.affine.fields import gather, recast, spread
from quantload.weights.affine.interleave import NIBBLES

TILE = 16
ROWS = 64
"""The number of output rows must be a multiple of this: four tiles."""


@cache
def code_order() -> Tensor:
    """int64 `[1024]`: which code of four tiles stands at each place."""
    order: list[int] = []
    for lane in range(32):
        row, column = lane // 4, 2 * (lane % 4)
        fragment = [
            16 * (column + step) + row + 8 * half for half in (0, 1) for step in (0, 1, 8, 9)
        ]
        for tile in range(4):
            order.extend(fragment[i] + 256 * tile for i in NIBBLES)
    return torch.tensor(order, device="cpu")


@cache
def scale_order(grouped: bool) -> Tensor:
    """int64: which scale of a run of 64 (or, with one group per row, of 32) stands where."""
    if grouped:
        return torch.arange(64, device="cpu").view(8, 8).T.flatten()
    pairs = torch.tensor([0, 1, 8, 9, 16, 17, 24, 25], device="cpu")
    return torch.cat([pairs + 2 * lane for lane in range(4)])


def rows_from_tiles(words: Tensor) -> Tensor:
    """Codes uint8 `[rows, columns]` of Marlin words int32 `[columns // 16, rows * 2]`."""
    columns, rows = words.shape[0] * TILE, words.shape[1] // 2
    codes = spread(recast(words, torch.uint8), 4).view(-1, 1024)
    inverse = torch.argsort(code_order()).to(words.device)
    tiles = codes[:, inverse].view(columns // TILE, rows // TILE, TILE, TILE)
    return tiles.permute(1, 3, 0, 2).reshape(rows, columns)


def rows_to_tiles(codes: Tensor) -> Tensor:
    """The inverse of `rows_from_tiles`."""
    rows, columns = codes.shape
    tiles = codes.view(rows // TILE, TILE, columns // TILE, TILE).permute(2, 0, 3, 1)
    ordered = tiles.reshape(-1, 1024)[:, code_order().to(codes.device)]
    return gather(ordered.view(-1), 4).view(torch.int32).view(columns // TILE, -1)


def scales_from_tiles(scales: Tensor) -> Tensor:
    """Marlin scales `[groups, rows]` in plain order."""
    order = scale_order(scales.shape[0] > 1)
    inverse = torch.argsort(order).to(scales.device)
    return scales.reshape(-1, len(order))[:, inverse].view(scales.shape)


def scales_to_tiles(scales: Tensor) -> Tensor:
    """The inverse of `scales_from_tiles`."""
    order = scale_order(scales.shape[0] > 1).to(scales.device)
    return scales.reshape(-1, len(order))[:, order].view(scales.shape)
