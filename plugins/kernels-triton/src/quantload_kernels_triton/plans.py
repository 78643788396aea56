"""Which kernel runs a product, and with which sizes: looked up in tables of the package.

A product is given the plan of the listed one that is most like it; nothing is tried out
at run time. In `tuning/`, a plan with a time (`us`, microseconds) was the fastest that
`benchmarks/triton_tune.py` found; a plan without one was chosen by likeness to
those and by what the compiler says of it, and never timed.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from quantload.errors import UnsupportedOperationError
from quantload_kernels_triton.geometry import Geometry

ON_HOPPER = frozenset({"warpgroups"})
"""Kernels that not every device and weight can have."""

MOST_FEW = 32
"""Rows up to which `few_rows` can be used."""

PROCESSORS = 132
"""How many programs of the kernels `ON_HOPPER` run at once, of which each has a processor alone."""

STEP = 64
"""Columns that those kernels multiply at once."""

SHORTEST = 4
"""Steps that are worth a part of their own."""

GATHERING = 8
"""Steps that take about as long as bringing the parts of a tile together; from times on an H200."""

MOST_PARTS = 8
"""Into how many parts tiles are split."""


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
    """A product, `rows` by `[out, into]`, and the plan for it."""

    bits: int
    rows: int
    out: int
    into: int
    plan: Plan


def family(capability: tuple[int, int]) -> str:
    """Name of the table for a device. What is neither is given the plans that need least."""
    return "sm90" if capability[0] == 9 else "sm80"


@cache
def table(name: str) -> tuple[Listed, ...]:
    """A table of the package."""
    text = files("quantload_kernels_triton").joinpath("tuning", f"{name}.json").read_text("utf-8")
    return tuple(
        Listed(entry["bits"], entry["rows"], entry["out"], entry["in"], Plan(**entry["plan"]))
        for entry in json.loads(text)["plans"]
    )


@cache
def plan_for(
    name: str, geometry: Geometry, run: int, rows: int, able: frozenset[str] = frozenset()
) -> Plan:
    """The plan for a product.

    Args:
        name: of the table.
        geometry: of the weight.
        run: columns that share a group.
        rows: rows of activations, at least 1.
        able: which of the kernels `ON_HOPPER` can run it; their plans come first.
    """
    entries = [
        entry
        for entry in table(name)
        if entry.bits == geometry.bits
        and (entry.plan.kernel not in ON_HOPPER or entry.plan.kernel in able)
    ]
    steps = sorted({entry.rows for entry in entries})
    if not steps:
        raise UnsupportedOperationError(f"no plans for {geometry.bits} bits in the table {name}")
    step = next((step for step in steps if step >= rows), steps[-1])
    shape = (geometry.rows, geometry.columns)
    nearest = min(
        (entry for entry in entries if entry.rows == step),
        key=lambda entry: (
            _distance(shape, (entry.out, entry.into)),
            entry.plan.kernel not in ON_HOPPER,
        ),
    )
    plan = nearest.plan
    if plan.kernel in ON_HOPPER:
        plan = spread(plan, (nearest.rows, nearest.out), rows, geometry)
    return fitted(plan, geometry, run)


def spread(plan: Plan, listed: tuple[int, int], rows: int, geometry: Geometry) -> Plan:
    """A plan of a kernel `ON_HOPPER`, its parts such that no processor has much more to do.

    Args:
        plan: what a product is listed with; if the one at hand has as many tiles, it stays.
        listed: its rows of activations and those of its weight.
        rows: rows of activations of the product at hand.
        geometry: of its weight.
    """
    tiles = programs(plan, rows, geometry.rows)
    if tiles == programs(plan, *listed):
        return plan
    steps = geometry.columns // STEP
    behind = tiles % PROCESSORS

    def time(parts: int) -> float:
        """Of the tiles that are too few for all processors, in those of a whole tile."""
        return -(-behind * parts // PROCESSORS) / parts + (parts > 1) * GATHERING / steps

    most = max(1, min(MOST_PARTS, steps // SHORTEST))
    return replace(plan, parts=min(range(1, most + 1), key=time), rest=True)


def programs(plan: Plan, rows: int, out: int) -> int:
    """How many programs of a kernel `ON_HOPPER` make a product, but for its parts."""
    return -(-rows // plan.rows) * -(-out // (64 * plan.stack))


def _distance(one: tuple[int, int], other: tuple[int, int]) -> float:
    return sum(abs(math.log(a / b)) for a, b in zip(one, other, strict=True))


def fitted(plan: Plan, geometry: Geometry, run: int) -> Plan:
    """A plan made possible for a weight."""
    if plan.kernel in ON_HOPPER:
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
