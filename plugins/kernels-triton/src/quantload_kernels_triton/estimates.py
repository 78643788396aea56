"""How long a product takes with the kernel of warpgroups, and which tiles of it are the quickest.

A program takes a time for each tile, one for each step of 64 columns, and where a tile is split,
one for every part that is added; programs run one for each processor. These three were
fitted to 1008 times of 30 products that `benchmarks/triton_tune.py` would try, on an H200, and
stand in `tuning/`; those of the largest tiles are of a later run, since which programs take turns.
By this fit, the tiles chosen took 3 % more than the quickest at most. Between the shapes and rows
that were timed it is less sure: tiles that are not full cost as much as full ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from quantload_kernels_triton.splitting import MOST_PARTS, PROCESSORS, SHORTEST, STEP, split_of

PAYING = 1.03
"""How much quicker parts must be than whole tiles."""


@dataclass(frozen=True)
class Tile:
    """Tiles of one size, and what they take on a device, in microseconds.

    Attributes:
        stack: see `plans.Plan`, as for `ways`, `rows` and `stages`.
        ways: see `stack`.
        rows: see `stack`.
        stages: see `stack`.
        tile_us: for each tile or part of one.
        step_us: for each step of it.
        part_us: for each part of a tile but one.
    """

    stack: int
    ways: int
    rows: int
    stages: int
    tile_us: float
    step_us: float
    part_us: float


@dataclass(frozen=True)
class Estimate:
    """What a product takes with tiles of one size, split in one way; see `plans.Plan`."""

    us: float
    tile: Tile
    parts: int
    rest: bool


def counts(
    tile: Tile, rows: int, out: int, columns: int, parts: int = 1, rest: bool = False
) -> tuple[int, int, int]:
    """How many tiles, steps and further parts the time of a product consists of."""
    steps = columns // STEP
    split = split_of((tile.rows, 64 * tile.stack), (rows, out), steps, parts, rest)
    rounds = -(-split.whole // PROCESSORS)
    more = -(-split.rest * split.parts // PROCESSORS)
    return rounds + more, rounds * steps + more * split.each, (split.parts - 1) * (split.rest > 0)


def estimate(
    tile: Tile, rows: int, out: int, columns: int, parts: int = 1, rest: bool = False
) -> Estimate:
    """What a product `[rows, columns]` by `[out, columns]` takes."""
    tiles, steps, further = counts(tile, rows, out, columns, parts, rest)
    us = tiles * tile.tile_us + steps * tile.step_us + further * tile.part_us
    return Estimate(us, tile, parts, rest)


def quickest(tiles: Iterable[Tile], rows: int, out: int, columns: int) -> Estimate:
    """The tiles, and the parts of them, that take the least time; parts where they pay clearly."""
    most = max(1, min(MOST_PARTS, columns // STEP // SHORTEST))
    found = []
    for tile in tiles:
        found.append(estimate(tile, rows, out, columns))
        behind = -(-rows // tile.rows) * -(-out // (64 * tile.stack)) % PROCESSORS
        for parts in range(2, most + 1):
            found.append(estimate(tile, rows, out, columns, parts))
            if 0 < behind * parts <= PROCESSORS:
                found.append(estimate(tile, rows, out, columns, parts, True))
    return min(found, key=lambda one: one.us * (PAYING if one.parts > 1 else 1.0))
