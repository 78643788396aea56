"""The orders in which AWQ's kernels want codes."""

from __future__ import annotations

import torch
from torch import Tensor

from quantload.weights.affine.fields import gather, recast, spread

NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)
"""Nibble `i` of a word of the `gemm` layout holds output column `8 * c + NIBBLES[i]`."""

_INVERSE = (0, 4, 1, 5, 2, 6, 3, 7)


def deinterleave(codes: Tensor) -> Tensor:
    """Undo the order of nibbles along dimension 0, a multiple of 8 long."""
    return codes.view(-1, 8, *codes.shape[1:])[:, list(_INVERSE)].flatten(0, 1)


def interleave(codes: Tensor) -> Tensor:
    """The inverse of `deinterleave`."""
    return codes.view(-1, 8, *codes.shape[1:])[:, list(NIBBLES)].flatten(0, 1)


def rows_from_fast(words: Tensor) -> Tensor:
    """Codes of the `gemv_fast` layout.

    Four rows are interleaved in runs of 64 columns. Within a row, each 32 columns are
    stored in the order 0 1 8 9 16 17 24 25 2 3 ..., and then each 8 of those in the
    order of `NIBBLES`; a word takes four codes, the low nibble first.

    Args:
        words: int16 `[rows // 4, columns]`; `columns` is a multiple of 64.

    Returns:
        uint8 `[rows, columns]`.
    """
    quads, columns = words.shape
    codes = spread(recast(words, torch.uint8), 4)
    codes = codes.view(quads, columns // 64, 4, 64).transpose(1, 2)
    codes = codes.reshape(-1, columns // 32, 4, 2, 4).transpose(3, 4)
    return codes.transpose(2, 3).reshape(quads * 4, columns)


def rows_to_fast(codes: Tensor) -> Tensor:
    """The inverse of `rows_from_fast`."""
    rows, columns = codes.shape
    codes = codes.view(rows, columns // 32, 4, 4, 2).transpose(2, 3)
    codes = codes.transpose(3, 4).reshape(rows // 4, 4, columns // 64, 64)
    codes = codes.transpose(1, 2).reshape(-1)
    return gather(codes, 4).view(torch.int16).view(rows // 4, columns)
