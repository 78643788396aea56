"""Blocks of big-endian files, turned around in place."""

from __future__ import annotations

from torch import Tensor

from quantload.errors import UnsupportedOperationError
from quantload_gguf.ggml import GgmlType


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
