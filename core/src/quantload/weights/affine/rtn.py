"""Round to nearest: quantizing a weight by itself, without data."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.errors import CheckpointError


class Rounded(NamedTuple):
    """A rounded weight in plain form.

    Attributes:
        codes: uint8 `[out_features, in_features]`.
        scales: `[out_features, groups]`.
        zeros: int16 `[out_features, groups]`.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor


def round_to_nearest(
    weight: Tensor,
    *,
    bits: int,
    group_size: int,
    symmetric: bool,
    scale_dtype: torch.dtype = torch.float16,
    lowest_zero: int = 0,
) -> Rounded:
    """Quantize each group of columns to the range of its values.

    Codes are computed with the scales as they will be stored. A symmetric range
    reaches as far as the largest magnitude on both sides; an asymmetric one always
    holds zero, so that zero stays exactly zero.

    Args:
        weight: float `[out_features, in_features]`; not kept.
        bits: bits of a code.
        group_size: columns of a group; the last may be shorter.
        symmetric: put the zero-point at `2**(bits - 1)` everywhere.
        scale_dtype: dtype of the scales.
        lowest_zero: smallest zero-point the target can store (1 for `gptq` version 1).

    Raises:
        CheckpointError: the weight holds NaN or infinity.
    """
    rows, columns = weight.shape
    groups = -(-columns // group_size)
    padding = groups * group_size - columns
    grid = weight.to(torch.float32)
    grid = F.pad(grid, (0, padding)) if padding else grid
    grid = grid.reshape(rows, groups, group_size)
    top = (1 << bits) - 1
    low, high = grid.amin(-1).clamp(max=0), grid.amax(-1).clamp(min=0)
    if symmetric:
        reach = torch.maximum(-low, high)
        step = 2 * reach / top
    else:
        # with a lowest zero-point of 1 there is a step below zero even where nothing is
        step = torch.maximum((high - low) / top, high / (top - lowest_zero))
    if not bool(torch.isfinite(step).all()):
        raise CheckpointError("the weight to be quantized holds NaN or infinite values")
    scales = _stored(step, scale_dtype)
    divisor = scales.to(torch.float32)
    if symmetric:
        zeros = torch.full_like(divisor, 1 << (bits - 1))
    else:
        zeros = torch.round(-low / divisor).clamp(lowest_zero, top)
    codes = torch.round(grid / divisor[..., None])
    codes += zeros[..., None]
    codes = codes.clamp_(0, top).to(torch.uint8).view(rows, -1)[:, :columns]
    return Rounded(codes, scales, zeros.to(torch.int16))


def _stored(step: Tensor, dtype: torch.dtype) -> Tensor:
    """Steps as stored: never zero (a group of zeros has any scale), never infinite."""
    info = torch.finfo(dtype)
    smallest = info.smallest_normal * info.eps
    return torch.where(step > 0, step, 1.0).clamp(smallest, info.max).to(dtype)
