"""Which tiles of a product one program makes, and which are split, on Hopper.

A product takes as long as the processor that has most to do. Where the last tiles leave many
idle, these tiles alone are split, so that nearly all have something; see `plans.Plan.rest`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PROCESSORS = 132
"""How many programs run at once, of which each has a processor alone."""

STEP = 64
"""Columns that are multiplied at once."""

SHORTEST = 4
"""Steps that are worth a part of their own."""

MOST_PARTS = 8
"""Into how many parts tiles are split. More programs than twice as many must run, for parts of a
tile wait for each other; see `jit.warpgroups.sums.gather`."""


@dataclass(frozen=True)
class Split:
    """How a product is given to programs.

    Attributes:
        rows: rows of activations of a tile.
        tall: rows of the weight of a tile.
        across: tiles beside each other.
        whole: tiles that one program makes each; they come first.
        rest: the other tiles.
        parts: those of each of the others.
        each: steps of a part.
    """

    rows: int
    tall: int
    across: int
    whole: int
    rest: int
    parts: int
    each: int

    @property
    def shares(self) -> int:
        """How many whole tiles and parts there are."""
        return self.whole + self.rest * self.parts

    def room(self, y: Tensor) -> Tensor:
        """Where parts go, float32; y where there are none."""
        if not self.rest:
            return y
        size = (self.rest, self.parts, self.rows * self.tall)
        return torch.empty(size, dtype=torch.float32, device=y.device)

    def flags(self, y: Tensor, blocks: int) -> Tensor:
        """A flag for each of the `blocks` of each part; see `jit.warpgroups.sums.gather`."""
        if not self.rest:
            return y
        size = (self.rest, self.parts, blocks)
        return torch.empty(size, dtype=torch.int64, device=y.device)


def split_of(
    tile: tuple[int, int], shape: tuple[int, int], steps: int, parts: int, rest: bool
) -> Split:
    """How a product is split.

    Args:
        tile: rows of activations and of the weight of a tile.
        shape: those of the product.
        steps: of the columns.
        parts: into how many parts they are split.
        rest: whether only for tiles that are too few to give every processor one.
    """
    across = -(-shape[0] // tile[0])
    total = across * -(-shape[1] // tile[1])
    each = -(-steps // parts)
    parts = -(-steps // each)
    whole = total
    if parts > 1:
        whole = total - total % PROCESSORS if rest else 0
    return Split(*tile, across, whole, total - whole, parts, each)
