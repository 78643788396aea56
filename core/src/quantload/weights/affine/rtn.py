"""Round to nearest: quantizing a weight by itself, without data."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.errors import CheckpointError

SHRUNK = (0.95, 0.9, 0.85, 0.8)
"""Ranges that are tried beside the whole one, as parts of it.

Few values are at the ends of a range. With 16 levels or fewer it pays to cut them off:
all others get a finer grid. (auto-gptq calls this search `mse`.)
"""

_SEARCHED_BITS = 4
_ELEMENTS = {"cpu": 1 << 20}
_ELEMENTS_ELSEWHERE = 1 << 26


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


class _Grid(NamedTuple):
    """What a group is rounded to: float32 scales as they will be stored, and zero-points."""

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
    """Quantize each group of columns to a range of values.

    The range is that of the group; with 4 bits and fewer it is the one of `SHRUNK` and
    the whole that leaves the smallest squared error. A symmetric range reaches equally
    far on both sides of zero; an asymmetric one always holds zero, so that zero stays
    exactly zero. Codes are computed with the scales as they will be stored.

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
    codes = torch.empty((rows, columns), dtype=torch.uint8, device=weight.device)
    scales = torch.empty((rows, groups), dtype=scale_dtype, device=weight.device)
    zeros = torch.empty((rows, groups), dtype=torch.int16, device=weight.device)
    top = (1 << bits) - 1
    limit = _ELEMENTS.get(weight.device.type, _ELEMENTS_ELSEWHERE)
    step = max(1, limit // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        values = weight[part].to(torch.float32)
        values = F.pad(values, (0, groups * group_size - columns))
        values = values.view(-1, groups, group_size)
        grid = _best(values, top, symmetric, scale_dtype, lowest_zero)
        found = _codes(values, grid, top).to(torch.uint8)
        codes[part] = found.view(found.shape[0], -1)[:, :columns]
        scales[part], zeros[part] = grid
    return Rounded(codes, scales, zeros)


def _best(values: Tensor, top: int, symmetric: bool, dtype: torch.dtype, lowest_zero: int) -> _Grid:
    low, high = values.amin(-1).clamp(max=0), values.amax(-1).clamp(min=0)
    if not bool(torch.isfinite(high - low).all()):
        raise CheckpointError("the weight to be quantized holds NaN or infinite values")
    best = _grid(low, high, top, symmetric, dtype, lowest_zero)
    if top >= 1 << _SEARCHED_BITS:
        return best
    least = _error(values, best, top)
    for part in SHRUNK:
        grid = _grid(low * part, high * part, top, symmetric, dtype, lowest_zero)
        error = _error(values, grid, top)
        better = error < least
        least = torch.where(better, error, least)
        best = _Grid(*(torch.where(better, new, old) for new, old in zip(grid, best, strict=True)))
    return best


def _grid(
    low: Tensor, high: Tensor, top: int, symmetric: bool, dtype: torch.dtype, lowest_zero: int
) -> _Grid:
    if symmetric:
        scales = _stored(2 * torch.maximum(-low, high) / top, dtype)
        return _Grid(scales, torch.full_like(scales, (top + 1) // 2))
    # with a lowest zero-point of 1 there is a step below zero even where nothing is
    scales = _stored(torch.maximum((high - low) / top, high / (top - lowest_zero)), dtype)
    return _Grid(scales, torch.round(-low / scales).clamp(lowest_zero, top))


def _stored(step: Tensor, dtype: torch.dtype) -> Tensor:
    """Steps as they will be stored: not zero (a group of zeros has any), not infinite."""
    info = torch.finfo(dtype)
    smallest = info.smallest_normal * info.eps
    stored = torch.where(step > 0, step, 1.0).clamp(smallest, info.max).to(dtype)
    return stored.to(torch.float32)


def _codes(values: Tensor, grid: _Grid, top: int) -> Tensor:
    codes = values / grid.scales[..., None]
    codes.round_()
    codes += grid.zeros[..., None]
    return codes.clamp_(0, top)


def _error(values: Tensor, grid: _Grid, top: int) -> Tensor:
    """Squared error of each group."""
    found = _codes(values, grid, top)
    found -= grid.zeros[..., None]
    found *= grid.scales[..., None]
    found -= values
    return found.square_().sum(-1)
