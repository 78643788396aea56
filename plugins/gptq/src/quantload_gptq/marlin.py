"""GPTQ layers that were saved packed for the Marlin kernel (auto-gptq 0.6 and 0.7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from quantload.plugin import UnsupportedOperationError
from quantload.weights.affine import AffineWeight, Origin
from quantload.weights.affine.checks import check_scales
from quantload.weights.affine.tiles import (
    rows_from_tiles,
    rows_to_tiles,
    scales_from_tiles,
    scales_to_tiles,
)

if TYPE_CHECKING:
    from quantload.plugin import ModuleSpec

_GROUP = 128
_COLUMNS, _ROWS = 128, 256


def read(spec: ModuleSpec, tensors: Mapping[str, Tensor], label: Mapping[str, str]) -> AffineWeight:
    """The weight of a layer whose headers have been checked."""
    scales = tensors["s"]
    check_scales(f"{spec.name}.s", scales)
    codes = rows_from_tiles(tensors["B"])
    return AffineWeight.from_codes(
        codes,
        scales_from_tiles(scales).T,
        bits=4,
        group_size=codes.shape[1] // scales.shape[0],
        dtype=spec.dtype,
        origin=Origin("marlin", label),
    )


def fits(rows: int, columns: int, group_size: int) -> bool:
    """Whether Marlin's kernel runs such a layer; others were never written."""
    whole = group_size in (_GROUP, columns)
    return whole and columns % _COLUMNS == 0 and rows % _ROWS == 0


def write(name: str, weight: AffineWeight) -> dict[str, Tensor]:
    """The tensors of a layer.

    Raises:
        UnsupportedOperationError: Marlin has no such layer.
    """
    rows, columns = weight.shape
    reasons = []
    if weight.bits != 4:
        reasons.append(f"codes have 4 bits, not {weight.bits}")
    if not weight.symmetric:
        reasons.append("zero-points other than 8 have no place")
    if weight.act_order:
        reasons.append("columns out of order (desc_act) have no place")
    read_here = weight.origin is not None and weight.origin.format == "marlin"
    if not read_here and not fits(rows, columns, weight.group_size):
        reasons.append(
            f"it has groups of 128 or whole rows, columns in multiples of {_COLUMNS} and rows in "
            f"multiples of {_ROWS}, not {rows} x {columns} in groups of {weight.group_size}"
        )
    if reasons:
        raise UnsupportedOperationError(
            f"{name}: cannot be written as marlin: {'; '.join(reasons)}; use gptq or gptq_v2"
        )
    return {
        "B": rows_to_tiles(weight.plain_codes()),
        "s": scales_to_tiles(weight.scales.T.contiguous()),
    }
