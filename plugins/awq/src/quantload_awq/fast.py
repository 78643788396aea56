"""The `gemv_fast` layout, and that of llm-awq: interleaved rows and float offsets.

qweight int16 `[out_features // 4, in_features]`, scales and qzeros (`scaled_zeros` in
llm-awq) float16 `[padded groups, out_features]`; the latter is added, not subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from quantload.weights.affine import AffineWeight
from quantload.weights.affine.checks import check_scales
from quantload.weights.affine.interleave import rows_from_fast, rows_to_fast
from quantload.weights.affine.planes import pack_planes
from quantload_awq.headers import Found, padded_words
from quantload_awq.padding import check_padding

_PER_WORD = 8


def read(name: str, tensors: Mapping[str, Tensor], found: Found, bits: int) -> dict[str, Any]:
    """The parts of a weight.

    Raises:
        CheckpointError: the scales show another number of groups, or an offset is no number.
    """
    assert found.zeros is not None
    scales, offsets = tensors["scales"].T, tensors[found.zeros].T
    check_padding(f"{name}.scales", scales, found.groups)
    check_scales(f"{name}.{found.zeros}", offsets)
    padding = bool(offsets[:, found.groups :].any())
    return {
        "codes": pack_planes(rows_from_fast(tensors["qweight"]), bits),
        "scales": scales[:, : found.groups].contiguous(),
        "offsets": offsets[:, : found.groups].contiguous(),
        "kept": {"offsets": tensors[found.zeros]} if padding else {},
        "facts": {"width": scales.shape[1]},
    }


def write(weight: AffineWeight, zeros: str) -> dict[str, Tensor]:
    """The tensors of a layer, the offsets under the name `zeros`."""
    assert weight.offsets is not None
    kept = weight.kept()
    facts = weight.origin.facts if weight.origin is not None else {}
    width = facts.get("width", _PER_WORD * padded_words(weight.groups, weight.group_size))
    offsets = kept.get("offsets")
    return {
        "qweight": rows_to_fast(weight.plain_codes()),
        zeros: _padded(weight.offsets, width) if offsets is None else offsets,
        "scales": _padded(weight.scales, width),
    }


def _padded(values: Tensor, width: int) -> Tensor:
    return F.pad(values, (0, width - values.shape[1])).T.contiguous()
