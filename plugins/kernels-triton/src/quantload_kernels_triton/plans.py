"""Which kernel runs a product, and with which sizes: looked up in tables of the package.

A product is given the plan of the listed one that is most like it, or where the kernel of
warpgroups can run it, the tiles that `estimates` finds to be quicker; nothing is tried out at run
time. In `tuning/`, a plan with a time (`us`, microseconds) was the fastest that
`benchmarks/triton_tune.py` found; a plan without one was chosen by likeness to
those and by what the compiler says of it, and never timed.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from quantload.errors import UnsupportedOperationError
from quantload_kernels_triton.estimates import Tile, quickest
from quantload_kernels_triton.geometry import Geometry

MOST_FEW = 32
"""Rows up to which `few_rows` can be used."""


@dataclass(frozen=True)
class Plan:
    """Sizes for one launch.

    Attributes:
        kernel: "few", "many", "decoded" or "warpgroups".
        tiles: tiles of 16 rows of the weight, of a program ("few") or a warp.
        units: units of columns that a warp takes at once.
        warps: warps of a program.
        ahead: how many times `units` are loaded ("few") or multiplied ("many") before the
            warps of a program wait for each other.
        packed: whether "few" first brings the activations into the order of its operand.
        rows: rows of activations of a program of "many" or "warpgroups".
        stages: depth of its pipeline.
        parts: into how many parts it splits the columns.
        rest: whether "warpgroups" splits only the tiles that are too few to give every processor
            one.
        stack: warpgroups of a program of "warpgroups" that stand one below the other.
        ways: warpgroups that share the columns of one of these.
    """

    kernel: str
    tiles: int = 1
    units: int = 1
    warps: int = 8
    ahead: int = 1
    packed: bool = False
    rows: int = 128
    stages: int = 3
    parts: int = 1
    rest: bool = False
    stack: int = 2
    ways: int = 1


@dataclass(frozen=True)
class Listed:
    """A product, `rows` by `[out, into]`, the plan for it, and its microseconds, if known."""

    bits: int
    rows: int
    out: int
    into: int
    plan: Plan
    us: float | None

    def time(self, rows: int, out: int, into: int) -> float:
        """About how long another product takes; not known to take any time where this is not."""
        if self.us is None:
            return math.inf
        size = out * into / (self.out * self.into)
        # Half of the time of a small product is not for its size.
        return self.us * max(1.0, rows / self.rows) * (size if size > 1 else 0.55 + 0.45 * size)


def family(capability: tuple[int, int]) -> str:
    """Name of the table for a device. What is neither is given the plans that need least."""
    return "sm90" if capability[0] == 9 else "sm80"


@cache
def _read(name: str) -> dict[str, list[dict[str, Any]]]:
    text = files("quantload_kernels_triton").joinpath("tuning", f"{name}.json").read_text("utf-8")
    found: dict[str, list[dict[str, Any]]] = json.loads(text)
    return found


@cache
def table(name: str) -> tuple[Listed, ...]:
    """A table of the package."""
    return tuple(
        Listed(
            entry["bits"],
            entry["rows"],
            entry["out"],
            entry["in"],
            Plan(**entry["plan"]),
            entry.get("us"),
        )
        for entry in _read(name)["plans"]
    )


@cache
def tiles(name: str) -> tuple[Tile, ...]:
    """What the tiles of "warpgroups" take, by a table of the package."""
    return tuple(Tile(**entry) for entry in _read(name).get("tiles", ()))


@cache
def plan_for(name: str, geometry: Geometry, run: int, rows: int, wide: bool = False) -> Plan:
    """The plan for a product.

    Args:
        name: of the table.
        geometry: of the weight.
        run: columns that share a group.
        rows: rows of activations, at least 1.
        wide: whether "warpgroups" can run it. It does where it is estimated to be the quickest.
    """
    entries = [entry for entry in table(name) if entry.bits == geometry.bits]
    steps = sorted({entry.rows for entry in entries})
    if not steps:
        raise UnsupportedOperationError(f"no plans for {geometry.bits} bits in the table {name}")
    step = next((step for step in steps if step >= rows), steps[-1])
    shape = (geometry.rows, geometry.columns)
    nearest = min(
        (entry for entry in entries if entry.rows == step),
        key=lambda entry: _distance(shape, (entry.out, entry.into)),
    )
    if wide and tiles(name):
        best = quickest(tiles(name), rows, *shape)
        if best.us < nearest.time(rows, *shape):
            tile = best.tile
            return Plan(
                "warpgroups",
                rows=tile.rows,
                stages=tile.stages,
                parts=best.parts,
                rest=best.rest,
                stack=tile.stack,
                ways=tile.ways,
            )
    return fitted(nearest.plan, geometry, run)


def _distance(one: tuple[int, int], other: tuple[int, int]) -> float:
    return sum(abs(math.log(a / b)) for a, b in zip(one, other, strict=True))


def fitted(plan: Plan, geometry: Geometry, run: int) -> Plan:
    """A plan made possible for a weight."""
    if plan.kernel == "warpgroups":
        return plan
    units = plan.units if run >= plan.units * geometry.unit else 1
    plan = replace(plan, units=units)
    if plan.kernel == "many":
        ahead = plan.ahead
        while ahead > 1 and geometry.units % (units * ahead):
            ahead //= 2
        steps = -(-geometry.units // (units * ahead))
        return replace(plan, ahead=ahead, parts=max(1, min(plan.parts, steps)))
    tiles = plan.tiles
    while geometry.tiles % tiles:
        tiles //= 2
    if plan.kernel == "decoded":
        return replace(plan, tiles=tiles)
    # No warp should be idle, and nothing loaded that is not there.
    warps, ahead = plan.warps, plan.ahead
    while ahead > 1 and warps * plan.units * ahead > geometry.units:
        ahead //= 2
    while warps > 4 and warps * plan.units > geometry.units:
        warps //= 2
    return replace(plan, tiles=tiles, warps=warps, ahead=ahead)
