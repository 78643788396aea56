"""Bit fields of 1, 2, 4 or 8 bits inside bytes, spread out and gathered again.

Both work on whole machine words: a byte is widened until there is a byte for each
of its fields, and the fields are moved there with shifts and masks.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = {4: torch.int16, 2: torch.int32, 1: torch.int64}
_MOVES = {
    4: ((4, 0x0F0F),),
    2: ((12, 0x000F000F), (6, 0x03030303)),
    1: ((28, 0x0000000F0000000F), (14, 0x0003000300030003), (7, 0x0101010101010101)),
}


def recast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The bytes of a tensor, in the order of its elements, as one run of another dtype."""
    run = tensor.reshape(-1)
    if run.stride(0) != 1:  # a single element may have any stride and counts as contiguous
        run = run.clone(memory_format=torch.contiguous_format)
    return run.view(dtype)


def spread(packed: Tensor, width: int) -> Tensor:
    """Every field in a byte of its own, the least significant first.

    Args:
        packed: uint8 `[..., n]`.
        width: bits of a field: 1, 2, 4 or 8.

    Returns:
        uint8 `[..., n * 8 // width]`; `packed` itself where `width` is 8.
    """
    if width == 8:
        return packed
    words = recast(packed, torch.uint8).to(_WORD[width])
    for shift, mask in _MOVES[width]:
        moved = words << shift
        moved |= words
        moved &= mask
        words = moved
    return words.view(torch.uint8).view(*packed.shape[:-1], packed.shape[-1] * 8 // width)


def gather(fields: Tensor, width: int) -> Tensor:
    """The inverse of `spread`; what a byte has above `width` bits must be zero.

    Args:
        fields: uint8 `[..., n]`, `n` a multiple of `8 // width`.
        width: bits of a field: 1, 2, 4 or 8.

    Returns:
        uint8 `[..., n * width // 8]`.
    """
    if width == 8:
        return fields
    words = recast(fields, _WORD[width])
    moves = _MOVES[width]
    for step in range(len(moves) - 1, -1, -1):
        words = words | (words >> moves[step][0])
        if step > 0:
            words &= moves[step - 1][1]
    return words.to(torch.uint8).view(*fields.shape[:-1], fields.shape[-1] * width // 8)
