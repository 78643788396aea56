"""Between zero-points and the float offsets that some layouts store in their place.

AWQ's `gemv_fast` adds `-(scale * zero)`, rounded to float16, where others subtract the
zero-point. Most such products do not fit float16, so a weight with offsets and the one
with the zero-points that they were rounded from are not the same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantload.errors import UnsupportedOperationError


def rounded_offsets(scales: Tensor, zeros: Tensor) -> Tensor:
    """`-(scale * zero)` in the dtype of the scales, `[out_features, groups]`."""
    return -(scales.to(torch.float32) * zeros.to(torch.float32)).to(scales.dtype)


def zeros_behind(scales: Tensor, offsets: Tensor, bits: int) -> Tensor:
    """The zero-points that offsets were rounded from, int16 `[out_features, groups]`.

    Raises:
        UnsupportedOperationError: some offset is not the rounded product of its scale
            and a whole number from 0 to `2**bits`.
    """
    wide = scales.to(torch.float32)
    ratio = torch.where(wide == 0, 0.0, -offsets.to(torch.float32) / wide)
    zeros = torch.round(ratio).clamp(0, 1 << bits).to(torch.int16)
    wrong = rounded_offsets(scales, zeros) != offsets
    if bool(wrong.any()):
        row, group = (int(i) for i in wrong.nonzero()[0])
        raise UnsupportedOperationError(
            f"{int(wrong.sum())} of {wrong.numel()} offsets are not the product of their scale "
            f"and a whole zero-point (row {row}, group {group}: scale {float(wide[row, group])}, "
            f"offset {float(offsets[row, group])})"
        )
    return zeros


def same_numbers(scales: Tensor, zeros: Tensor, offsets: Tensor) -> bool:
    """Whether offsets are the products of scales and zero-points without any rounding."""
    exact = -(scales.to(torch.float64) * zeros.to(torch.float64))
    return torch.equal(exact, offsets.to(torch.float64))
