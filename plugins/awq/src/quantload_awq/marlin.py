"""AWQ layers that were saved packed for the Marlin kernel (autoawq, `version="marlin"`).

qweight int32 `[in_features // 16, out_features * 2]`, scales `[groups, out_features]`,
both permuted; the zero-point is 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quantload.weights.affine import AffineWeight
from quantload.weights.affine.planes import pack_planes
from quantload.weights.affine.tiles import (
    rows_from_tiles,
    rows_to_tiles,
    scales_from_tiles,
    scales_to_tiles,
)
from quantload_awq.headers import Found


def read(name: str, tensors: Mapping[str, Tensor], found: Found, bits: int) -> dict[str, Any]:  # noqa: ARG001  one signature for all layouts
    """The parts of a weight."""
    return {
        "codes": pack_planes(rows_from_tiles(tensors["qweight"]), bits),
        "scales": scales_from_tiles(tensors["scales"]).T.contiguous(),
    }


def write(weight: AffineWeight) -> dict[str, Tensor]:
    """The tensors of a layer."""
    return {
        "qweight": rows_to_tiles(weight.plain_codes()),
        "scales": scales_to_tiles(weight.scales.T.contiguous()),
    }
