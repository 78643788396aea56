"""Writing a GGUF file: metadata, table, tensors one after the other.

Source: docs/gguf.md of ggml, version 3, little-endian.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from quantload.errors import CheckpointError
from quantload_gguf.container.header import ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC
from quantload_gguf.container.values import ARRAYS, CODES, Field, ValueType
from quantload_gguf.ggml import GgmlType

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("quantload.gguf")

VERSION = 3


@dataclass(frozen=True)
class Planned:
    """A tensor that is to be written.

    Attributes:
        name: in the file.
        shape: logical, as torch has it.
        kind: the ggml type.
        make: gives its bytes or numbers, when its turn comes.
    """

    name: str
    shape: tuple[int, ...]
    kind: GgmlType
    make: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        count = 1
        for size in self.shape[:-1]:
            count *= size
        return count * self.kind.row_bytes(self.shape[-1] if self.shape else 1)


def write_gguf(
    path: str | os.PathLike[str], fields: Mapping[str, Field], tensors: Sequence[Planned]
) -> None:
    """Write a file; one tensor at a time is in memory.

    Args:
        path: of the file, which is made or overwritten.
        fields: the metadata, in order.
        tensors: in order.

    Raises:
        CheckpointError: a tensor is not of the size that was planned.
        OSError: the file cannot be written.
    """
    given = fields.get(ALIGNMENT_KEY)
    alignment = int(given.value) if given is not None else DEFAULT_ALIGNMENT
    encoded = [data for key, field in fields.items() if (data := _entry(key, field))]
    header = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(encoded)), *encoded]
    offset = 0
    for tensor in tensors:
        header += (_string(tensor.name), struct.pack("<I", len(tensor.shape)))
        header += (struct.pack("<Q", size) for size in reversed(tensor.shape))
        header.append(struct.pack("<IQ", tensor.kind.number, offset))
        offset += _padded(tensor.nbytes, alignment)
    with open(path, "wb") as file:  # noqa: PTH123  the path may be any kind
        file.write(b"".join(header))
        _fill(file, alignment)
        for tensor in tensors:
            file.write(_bytes(tensor))
            _fill(file, alignment)


def _bytes(tensor: Planned) -> Any:
    import torch

    made = tensor.make().detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    if made.numel() != tensor.nbytes:
        raise CheckpointError(
            f"{tensor.name}: expected {tensor.nbytes} bytes of {tensor.kind.name} for "
            f"{list(tensor.shape)}, found {made.numel()}"
        )
    return made.numpy()  # a buffer


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _fill(file: BinaryIO, alignment: int) -> None:
    file.write(bytes(-file.tell() % alignment))


def _entry(key: str, field: Field) -> bytes:
    start = _string(key) + struct.pack("<I", field.type)
    if field.type is not ValueType.ARRAY:
        return start + _scalar(field.type, field.value)
    if field.item_type is None or field.item_type is ValueType.ARRAY:
        logger.warning("%s is an array of arrays, which is not written", key)
        return b""
    start += struct.pack("<IQ", field.item_type, len(field.value))
    if field.item_type is ValueType.STRING:
        return start + b"".join(map(_string, field.value))
    import numpy as np

    return start + np.array(field.value, dtype="<" + ARRAYS[field.item_type]).tobytes()


def _scalar(kind: ValueType, value: Any) -> bytes:
    return _string(value) if kind is ValueType.STRING else struct.pack("<" + CODES[kind], value)


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data
