"""The table of tensors: read, and checked against the types and the file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantload.checkpoint.paths import show
from quantload.checkpoint.tensorinfo import TensorInfo
from quantload.errors import CheckpointError
from quantload_gguf.container.cursor import Cursor
from quantload_gguf.ggml import GgmlType, ggml_type

if TYPE_CHECKING:
    import torch

MAX_DIMENSIONS = 8
MAX_NAME_BYTES = 1024

_TORCH = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F64": "float64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
}


@dataclass(frozen=True, slots=True)
class GgufTensor(TensorInfo):
    """One tensor of a GGUF file.

    `shape` is as torch has it, the reverse of the order in the file. Reading gives
    plain types as they are, packed ones as uint8 `[..., bytes per row]`.

    Attributes:
        ggml_type: how its numbers are stored; `dtype` is the name of it.
    """

    ggml_type: GgmlType

    @property
    def torch_dtype(self) -> torch.dtype:
        """Dtype of what reading gives; imports torch."""
        import torch

        found: torch.dtype = getattr(torch, _TORCH.get(self.dtype, "uint8"))
        return found

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Shape of what reading gives."""
        if not self.ggml_type.packed:
            return self.shape
        return (*self.shape[:-1], self.ggml_type.row_bytes(self.shape[-1]))


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the table as it stands in the file.

    Attributes:
        name: of the tensor.
        shape: fastest dimension last.
        type: the ggml type.
        offset: from the beginning of the data, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        count = 1
        for size in self.shape:
            count *= size
        return count // self.type.elements * self.type.nbytes


def read_entry(cursor: Cursor) -> Entry:
    """The next line of the table.

    Raises:
        CheckpointError: an unknown type, rows that do not fill their blocks, more
            dimensions than a tensor has, or more bytes than the file has.
    """
    name = cursor.string("a tensor's name")
    if not name or len(name) > MAX_NAME_BYTES:
        raise cursor.error(f"expected the name of a tensor, found {show(name)}")
    label = f"tensor {show(name)}"
    ndim = cursor.integer("I", f"the dimensions of {label}")
    if ndim > MAX_DIMENSIONS:
        raise cursor.error(f"{label} claims {ndim} dimensions; at most {MAX_DIMENSIONS} are read")
    sizes = [cursor.integer("Q", f"the shape of {label}") for _ in range(ndim)]
    number = cursor.integer("I", f"the type of {label}")
    offset = cursor.integer("Q", f"the offset of {label}")
    shape = tuple(reversed(sizes))
    try:
        kind = ggml_type(number)
        if kind.packed:
            kind.row_bytes(shape[-1] if shape else 1)
    except CheckpointError as error:
        raise cursor.error(f"{label}: {error}") from error
    entry = Entry(name, shape, kind, offset)
    # A shape with a zero hides the size of its other dimensions: those count too.
    if entry.nbytes > cursor.raw.size or any(size > 8 * cursor.raw.size for size in shape):
        raise cursor.error(
            f"{label}: {kind.name} {list(shape)} takes {entry.nbytes} bytes, the whole file has "
            f"{cursor.raw.size}; it is cut short or damaged: download it again"
        )
    return entry


def check_places(cursor: Cursor, entries: Iterable[Entry], start: int, alignment: int) -> None:
    """Every tensor lies in the file, aligned, and on no other.

    Args:
        cursor: for the file.
        entries: the table.
        start: where the data begins, in bytes from the start of the file.
        alignment: of every offset, in bytes.

    Raises:
        CheckpointError: one does not; it is named.
    """
    end, previous = 0, ""
    for entry in sorted(entries, key=lambda e: (e.offset, e.nbytes)):
        label = f"{cursor.raw.path}: tensor {show(entry.name)}"
        if entry.offset % alignment:
            raise CheckpointError(
                f"{label}: its offset {entry.offset} is no multiple of the alignment {alignment}; "
                f"the file is damaged"
            )
        if start + entry.offset + entry.nbytes > cursor.raw.size:
            raise CheckpointError(
                f"{label}: expected {entry.nbytes} bytes at {start + entry.offset}, the file ends "
                f"at {cursor.raw.size}; it is cut short: download it again"
            )
        if entry.nbytes and entry.offset < end:
            raise CheckpointError(
                f"{label}: begins at {start + entry.offset}, inside of tensor {show(previous)}, "
                f"which ends at {start + end}; the file is damaged"
            )
        if entry.nbytes:
            end, previous = entry.offset + entry.nbytes, entry.name
