"""`TensorInfo`: all that is known of a tensor before its bytes are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantload.checkpoint.dtypes import BITS, PER_ITEM, torch_dtype
from quantload.errors import CheckpointError

if TYPE_CHECKING:
    import torch

ALIGNMENT = 16
"""Bytes, to which writers align: enough for every dtype."""


def needed_alignment(itemsize: int) -> int:
    """To how many bytes a tensor must be aligned to be used where it is mapped.

    A float32 product with one row differs in its last bits on memory aligned to less
    than 16; those of narrower dtypes do not, and safetensors files align data to 8.
    """
    return ALIGNMENT if itemsize >= 4 else 8


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint.

    Readers of other formats derive from it and override `torch_dtype` and
    `torch_shape`, which say what `Checkpoint.read` hands out.

    Attributes:
        name: the name in the file.
        dtype: as the format spells it; for safetensors "BF16", "F8_E4M3", "I32".
        shape: the shape in the header, counted in elements.
        nbytes: bytes in the file.
        file: the file that holds it.
        offset: of its first byte from the start of the file, in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path
    offset: int

    @property
    def aligned(self) -> bool:
        """Whether it can be used where it is mapped (a mapping begins on a page)."""
        return self.offset % needed_alignment(BITS.get(self.dtype, 32) // 8) == 0

    @property
    def numel(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the tensor that reading gives; imports torch.

        Raises:
            CheckpointError: torch has no such dtype (the 6-bit floats).
        """
        try:
            return torch_dtype(self.dtype)
        except CheckpointError as error:
            raise CheckpointError(f"{self.file}: tensor {self.name!r}: {error}") from error

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape of the tensor that reading gives.

        It is `shape`, except that torch keeps two `F4` elements in one item, so
        that the last dimension is half as long.

        Raises:
            CheckpointError: `F4` with an odd last dimension.
        """
        per_item = PER_ITEM.get(self.dtype, 1)
        if per_item == 1:
            return self.shape
        if not self.shape or self.shape[-1] % per_item:
            raise CheckpointError(
                f"{self.file}: tensor {self.name!r}: torch packs {per_item} {self.dtype} elements "
                f"of the last dimension into one item, found shape {list(self.shape)}; "
                f"read the bytes with read_raw()"
            )
        return (*self.shape[:-1], self.shape[-1] // per_item)
