"""What the layouts of AWQ cannot say of a weight."""

from __future__ import annotations

from quantload.plugin import UnsupportedOperationError
from quantload.weights.affine import AffineWeight

_SIDES = {"gemv": (8, 8), "gemv_fast": (8, 64), "llm-awq": (8, 64), "marlin": (256, 128)}
_PADDED = ("gemv", "gemv_fast", "llm-awq")
_GROUPS = (16, 32, 64)
"""Group sizes below 128 that the padded layouts know."""


def misfits(layout: str, bits: int, rows: int, columns: int, group_size: int) -> list[str]:
    """Why a layer of such a shape has no place in a layout; nothing where it has."""
    down, across = _SIDES.get(layout, (8 if bits == 4 else 1, 1))
    reasons = []
    if layout != "gemm" and bits != 4:
        reasons.append(f"it has 4 bits, not {bits}")
    if rows % down or columns % across:
        reasons.append(f"its sides are multiples of {down} and {across}, not {rows} x {columns}")
    if columns % group_size:
        reasons.append(f"groups of {group_size} do not divide {columns} columns")
    elif layout == "marlin" and group_size not in (128, columns):
        reasons.append(f"groups have 128 columns or are whole rows, not {group_size}")
    elif layout in _PADDED and group_size not in _GROUPS and group_size < 128:
        reasons.append(f"groups of {group_size} are not among {_GROUPS} and 128 or more")
    return reasons


def check_expressible(
    name: str, weight: AffineWeight, layout: str, group_size: int
) -> AffineWeight:
    """The weight in the form a layout stores: with zero-points, or with offsets.

    Args:
        name: of the layer.
        weight: what is to be written.
        layout: the layout.
        group_size: as the config has it, -1 for whole rows. Scales that are padded do not
            show their number, and a reader has it from there.

    Raises:
        UnsupportedOperationError: the layout cannot express it; all reasons are given.
    """
    rows, columns = weight.shape
    reasons = misfits(layout, weight.bits, rows, columns, weight.group_size)
    said = columns if group_size == -1 else group_size
    if layout in _PADDED and weight.groups * said != columns and not columns % weight.group_size:
        reasons.append(f"it has groups of {weight.group_size}, and the config says {group_size}")
    if weight.act_order:
        reasons.append("its columns are out of order (desc_act), which only GPTQ can store")
    try:
        weight = (
            weight.with_offsets()
            if layout in ("gemv_fast", "llm-awq")
            else weight.with_zero_points()
        )
    except UnsupportedOperationError as error:
        reasons.append(str(error))
    else:
        reasons.extend(_zero_points(weight, layout))
    if reasons:
        raise UnsupportedOperationError(
            f"{name}: cannot be written as AWQ {layout}: {'; '.join(reasons)}"
        )
    return weight


def _zero_points(weight: AffineWeight, layout: str) -> list[str]:
    if layout == "marlin":
        return [] if weight.symmetric else ["zero-points other than 8 have no place"]
    if weight.zeros is None:
        return []
    low, high, top = int(weight.zeros.min()), int(weight.zeros.max()), (1 << weight.bits) - 1
    if low < 0 or high > top:
        return [f"zero-points reach from {low} to {high}, the layout has 0 to {top}"]
    return []
