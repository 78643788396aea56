"""Blocks of big-endian files, turned around in place where they need to be.

Programs of ggml on big-endian machines, and `gguf_convert_endian.py`, swap the wider
fields of blocks. The writer of the `gguf` package does not: it takes blocks for bytes.
The files say nothing of it, so the scales are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from quantload.errors import UnsupportedOperationError
from quantload_gguf.container import GgufTensor
from quantload_gguf.ggml import GgmlType

_TENSORS, _BLOCKS = 16, 512
"""How many tensors, and how many blocks of each, are looked at."""


def swap_in_place(data: Tensor, kind: GgmlType) -> None:
    """Reverse the bytes of every wider field of every block.

    Args:
        data: contiguous uint8 of whole blocks.
        kind: their type.

    Raises:
        UnsupportedOperationError: no big-endian form of the type is defined.
    """
    if kind.wide is None:
        raise UnsupportedOperationError(
            f"big-endian blocks of {kind.name} are not read, for no program that writes them is "
            f"known; convert the file with gguf-convert-endian"
        )
    blocks = data.view(-1, kind.nbytes)
    for offset, count, width in kind.wide:
        field = blocks[:, offset : offset + count * width].view(-1, count, width)
        field.copy_(field.flip(-1))


def blocks_are_swapped(
    tensors: Iterable[GgufTensor], read: Callable[[GgufTensor, slice], Tensor]
) -> bool:
    """Whether the blocks of a big-endian file have their scales in its byte order.

    The scales of a tensor lie within a few powers of two of each other; read in the wrong
    order their exponents are the low bits of fractions, which are anything. The order in
    which exponents lie closer together is the right one, that of the file where neither is.

    Args:
        tensors: of the file.
        read: gives some rows of a tensor as they are.
    """
    spread = {True: 0, False: 0}
    looked = 0
    for tensor in tensors:
        kind = tensor.ggml_type
        fields = kind.wide if kind.wide is not None else ((0, 1, 2),)
        if not kind.packed or not kind.decodable or not fields or not tensor.nbytes:
            continue
        if len(tensor.shape) < 2:  # it has no rows of which some could be read
            continue
        per_row = tensor.nbytes // tensor.shape[0] // kind.nbytes
        blocks = read(tensor, slice(0, max(1, _BLOCKS // per_row))).reshape(-1, kind.nbytes)
        for offset, count, _ in fields:
            halves = blocks[:_BLOCKS, offset : offset + 2 * count].to(torch.int32)
            for swapped in (True, False):
                high = halves[:, (0 if swapped else 1) :: 2]
                exponents = (high >> 2) & 31
                spread[swapped] += int((exponents - exponents.median()).abs().sum())
        looked += 1
        if looked == _TENSORS:
            break
    return spread[True] <= spread[False]
