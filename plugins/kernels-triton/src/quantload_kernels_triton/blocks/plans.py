"""Which kernel runs a product with a weight in blocks, and with which sizes.

The sizes are those that were fastest in `benchmarks/triton_gguf.py --tune` on one H200;
on other devices they were never timed. Nothing is tried out at run time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from quantload_kernels_triton.blocks.form import SUPER, Form

MOST_FEW = 32
"""Rows up to which `few_rows` can be used."""
LEAST_SHARED = 99 * 1024
"""Bytes of shared memory that a program may have on the devices that have least."""
SHARED = {(8, 0): 163 * 1024, (8, 7): 163 * 1024, (9, 0): 227 * 1024}
"""Compute capability -> bytes of shared memory that a program may have, where it is more.
Source: the table "Technical Specifications per Compute Capability" of CUDA's guide."""


@dataclass(frozen=True)
class Plan:
    """Sizes for one launch.

    Attributes:
        kernel: "few", "many", "decoded" or "warpgroups".
        tiles: tiles of 16 rows of the weight, of a program ("few") or a warp ("many").
        span: columns that a warp of "few" takes at once.
        warps: warps of a program.
        packed: whether "few" first brings the activations into the order of its operand.
        rows: rows of activations of a program of "many" or "warpgroups".
        ahead: how often "many" takes 64 columns before its warps wait for each other.
        stages: depth of its pipeline.
        parts: into how many parts it splits the columns.
        rest: see `plans.Plan`, as for `stack` and `ways`.
        stack: see `rest`.
        ways: see `rest`.
    """

    kernel: str
    tiles: int = 1
    span: int = SUPER
    warps: int = 4
    packed: bool = False
    rows: int = 64
    ahead: int = 2
    stages: int = 3
    parts: int = 1
    rest: bool = False
    stack: int = 2
    ways: int = 1


def plan_for(form: Form, out: int, into: int, rows: int, shared: int = LEAST_SHARED) -> Plan:
    """The plan for a product of `rows` rows by a weight `[out, into]`.

    Args:
        form: of the weight.
        out: its rows.
        into: its columns.
        rows: rows of activations.
        shared: bytes of shared memory that a program may have.
    """
    tiles = -(-out // 16)
    if rows <= 16:
        wide = tiles >= 512
        packed = rows > 1 or (wide and form.bits in (6, 8))
        plan = Plan("few", warps=4 if wide else 8, packed=packed)
    elif rows <= (64 if form.bits == 5 else 128):
        many = 32 if rows <= 32 else 64 if rows <= 64 else 128
        room = 132 if many == 128 or (many == 64 and form.bits == 5) else 264
        programs = -(-tiles // 4)
        parts = max(1, min(4, room // programs))
        warps = 8 if many == 128 and programs > room and form.bits == 6 else 4
        plan = Plan("many", rows=many, warps=warps, parts=1 << (parts.bit_length() - 1))
    else:
        plan = Plan("decoded")
    return fitted(plan, form, out, into, shared)


def fitted(plan: Plan, form: Form, out: int, into: int, shared: int = LEAST_SHARED) -> Plan:
    """A plan made possible for a weight; see `plan_for`."""
    if plan.kernel == "few":
        tiles = plan.tiles
        while -(-out // 16) % tiles:
            tiles //= 2
        least = {5: SUPER, 6: 128}.get(form.bits, form.unit)
        sums = form.offsets and form.steps > 0  # only come with packing, of 256 columns
        span = SUPER if sums else max(min(plan.span, SUPER), least)
        warps = plan.warps
        while warps > 4 and warps * span > into:
            warps //= 2
        return replace(plan, tiles=tiles, span=span, warps=warps, packed=plan.packed or sums)
    if plan.kernel == "many":
        plan = replace(plan, ahead=max(plan.ahead, {5: 4, 6: 2}.get(form.bits, 1)))
        while plan.stages > 2 and shared_bytes(plan, form) > shared:
            plan = replace(plan, stages=plan.stages - 1)
        while plan.rows > 16 and shared_bytes(plan, form) > shared:
            plan = replace(plan, rows=plan.rows // 2)
    return plan


def shared_bytes(plan: Plan, form: Form) -> int:
    """What a program of "many" keeps in shared memory, nearly."""
    tiles = plan.tiles * plan.warps
    words = tiles * 512 * 64 // form.unit
    scaling = tiles * 8 * (4 + 4 * (1 + form.offsets)) * 2
    each = plan.rows * 64 * 2 + words + scaling
    high = tiles * 512 * plan.ahead // {5: 4, 6: 2}[form.bits] if form.high_bits else 0
    return plan.stages * (plan.ahead * each + high)
