"""Which kernel runs a product with codebooks, and with which sizes.

The sizes are those that were fastest in `benchmarks/triton_aqlm.py --tune` on one H200;
on other devices they were never timed. Nothing is tried out at run time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MOST_FEW = 32
"""Rows up to which `few_rows` can be used."""


@dataclass(frozen=True)
class Plan:
    """Sizes for one launch.

    Attributes:
        kernel: "few", "many" or "decoded".
        tiles: tiles of 16 rows of the weight of a program of "few".
        warps: warps of a program; in "many" each has a tile of its own.
        groups: codes of each codebook, next to each other, that a lane takes at once.
        rows: rows of activations of a program of "many".
        ahead: whether "few" reads codes and "many" reads entries while others are multiplied.
        parts: into how many parts it splits the columns.
    """

    kernel: str
    tiles: int = 1
    warps: int = 4
    groups: int = 4
    rows: int = 64
    parts: int = 1
    ahead: bool = False


def plan_for(codebooks: int, out: int, rows: int) -> Plan:
    """The plan for a product of `rows` rows by a weight with `out` rows."""
    tiles, single = -(-out // 16), codebooks == 1
    small = tiles < 512
    if rows <= 16:
        warps = 8 if small and not single else 4
        tall = 2 if tiles > 1024 and codebooks <= 2 else 1
        groups = 2 if rows > 8 else 4 if small or tall > 1 else 8 if rows == 1 else 2
        plan = Plan("few", tall, warps, groups, ahead=tall == 1)
    elif rows <= 32 and small and not single:
        plan = Plan("few", 1, 8, 2, ahead=True)
    elif rows <= 64 or (rows <= 128 and not small):
        many = 32 if rows <= 32 else 64 if rows <= 64 else 128
        parts = (2 if many == 32 else 4) if small else 1 if single or many == 128 else 2
        groups = 4 if single and ((small and many == 32) or (not small and many < 128)) else 2
        plan = Plan("many", 1, 4 if small else 8, groups, many, parts, ahead=True)
    else:
        plan = Plan("decoded")
    return fitted(plan, codebooks)


def fitted(plan: Plan, codebooks: int) -> Plan:
    """A plan made possible for a weight: registers hold so many entries, words two codes."""
    groups = plan.groups
    while groups > 1 and groups * codebooks > 16:
        groups //= 2
    return replace(plan, groups=max(groups, 2) if codebooks == 1 else groups)
