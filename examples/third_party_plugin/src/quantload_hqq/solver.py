"""Fitting zero-points by half-quadratic splitting, without data.

The source is the description by its authors (Badri and Shaji, "Half-Quadratic Quantization
of Large Machine Learning Models", 2023). The p-norm of the error of rounding, with p < 1, is
little moved by outliers. It is made small by turns: the error is shrunk towards zero (the
proximal operator of the norm), and the zero-point becomes the mean that is best for what is
left. The scale stays as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NORM = 0.7
BETA, GROWTH = 10.0, 1.01
ROUNDS = 20
SMALLEST_RANGE = 1e-4
"""Groups that span less are as good as constant, and get a scale of 1."""
LARGEST_INVERSE = 2e4
"""Of a scale: what float16 still holds well."""


class Fitted(NamedTuple):
    """Quantized groups.

    Attributes:
        codes: uint8, like the weights.
        scale: one for each group, in the dtype it is stored in.
        zero: likewise.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor


def fit(
    groups: Tensor, nbits: float, *, dim: int, dtype: torch.dtype, optimize: bool, round_zero: bool
) -> Fitted:
    """Codes, scales and zero-points: `groups ~ scale * (codes - zero)`.

    Args:
        groups: float32 matrix.
        nbits: bits of a code.
        dim: dimension along which a group lies, 0 or 1.
        dtype: of the scales and zero-points; the codes are those for their rounded values.
        optimize: fit the zero-points, or leave them where the smallest weight becomes code 0.
        round_zero: start from whole zero-points.
    """
    top = round(2**nbits - 1)
    low, high = groups.amin(dim, keepdim=True), groups.amax(dim, keepdim=True)
    span = high - low
    inverse = torch.where(span <= SMALLEST_RANGE, 1.0, top / span).clamp(max=LARGEST_INVERSE)
    scale = (1.0 / inverse).to(dtype)
    wide = scale.to(torch.float32)
    zero = -low / wide
    if round_zero:
        zero = zero.round()
    if optimize:
        zero = _fitted_zero(groups, wide, zero, top, dim)
    zero = zero.to(dtype)
    codes = _codes(groups, wide, zero.to(torch.float32), top)
    return Fitted(codes.to(torch.uint8), scale, zero)


def _codes(groups: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    return (groups / scale + zero).round_().clamp_(0, top)


def _fitted_zero(groups: Tensor, scale: Tensor, zero: Tensor, top: int, dim: int) -> Tensor:
    """The zero-points with the smallest error on the way, for each group by itself."""
    best = zero
    least = torch.full_like(zero, float("inf"))
    beta = BETA
    for _ in range(ROUNDS):
        codes = _codes(groups, scale, zero, top)
        error = groups - scale * (codes - zero)
        total = error.abs().mean(dim, keepdim=True)
        better = total < least
        if not bool(better.any()):
            break
        best, least = torch.where(better, zero, best), torch.where(better, total, least)
        zero = (codes - (groups - _shrunk(error, beta)) / scale).mean(dim, keepdim=True)
        beta *= GROWTH
    return best


def _shrunk(error: Tensor, beta: float) -> Tensor:
    """The proximal operator of the p-norm: towards zero, small errors by more."""
    size = error.abs()
    less = (size - size.clamp_min(1e-12) ** (NORM - 1) / beta).clamp_min_(0)
    return error.sign() * less
