"""The header of a GGUF file: version, metadata, table of tensors.

Source: docs/gguf.md of ggml. Version 3 may be big-endian; version 2 has the same
layout; version 1 had 32-bit counts and is no longer read by anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantload.checkpoint.paths import show
from quantload.errors import CheckpointError
from quantload_gguf.container.cursor import ByteOrder, Cursor, Kept
from quantload_gguf.container.tensors import Entry, GgufTensor, check_places, read_entry
from quantload_gguf.container.values import Field, Values

if TYPE_CHECKING:
    from quantload.checkpoint.rawfile import RawFile

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
MAX_TENSORS = 1 << 15  # the largest models have some thousands, and reading has to be quick
MAX_KEYS = 1 << 16
_SMALLEST_ENTRY = 25  # a name of one letter, no dimension
_SMALLEST_FIELD = 14  # a key of one letter, a value of one byte

_OLD = {b"lmgg": "GGML", b"fmgg": "GGMF", b"tjgg": "GGJT", b"algg": "GGLA"}


@dataclass(frozen=True)
class Header:
    """All of a file but its tensors' bytes.

    Attributes:
        version: 2 or 3.
        order: byte order of the numbers, those in blocks included.
        alignment: of the tensors, in bytes.
        fields: the metadata with its types, in file order.
        tensors: name -> tensor, in the order of the table.
        raw_fields: the metadata as it stands in the file; see `kept_fields`.
    """

    version: int
    order: ByteOrder
    alignment: int
    fields: Mapping[str, Field]
    tensors: Mapping[str, GgufTensor]
    raw_fields: bytes = b""


def read_header(raw: RawFile, first: Header | None = None) -> Header:
    """Read and check the header of an open file.

    Whatever is in the file, this takes a bounded time and little memory.

    Args:
        raw: the file.
        first: of a split model, the header of its first part, which may be the only one
            that names the alignment.

    Raises:
        CheckpointError: it is no GGUF file, or it is damaged; it says where and how.
    """
    cursor = Cursor(raw)
    version = _version(cursor)
    tensor_count = cursor.integer("Q", "the number of tensors")
    field_count = cursor.integer("Q", "the number of metadata entries")
    _plausible(cursor, tensor_count, "tensors", _SMALLEST_ENTRY, MAX_TENSORS)
    _plausible(cursor, field_count, "metadata entries", _SMALLEST_FIELD, MAX_KEYS)
    begin = cursor.at
    fields = _fields(cursor, field_count)
    raw_fields = cursor.since(begin)
    alignment = _alignment(cursor, fields.get(ALIGNMENT_KEY))
    entries = {}
    for _ in range(tensor_count):
        entry = read_entry(cursor)
        if entry.name in entries:
            raise cursor.error(f"two tensors are called {show(entry.name)}; the file is damaged")
        entries[entry.name] = entry
    if ALIGNMENT_KEY not in fields and first is not None:
        alignment = _of_part(cursor, entries.values(), (alignment, first.alignment))
    start = _padded(cursor.at, alignment)
    check_places(cursor, entries.values(), start, alignment)
    tensors = {
        e.name: GgufTensor(
            name=e.name,
            dtype=e.type.name,
            shape=e.shape,
            nbytes=e.nbytes,
            file=raw.path,
            offset=start + e.offset,
            ggml_type=e.type,
        )
        for e in entries.values()
    }
    return Header(version, cursor.order, alignment, fields, tensors, raw_fields)


def kept_fields(path: Path, header: bytes, order: ByteOrder, count: int) -> dict[str, Field]:
    """The metadata again, from the bytes that `Header.raw_fields` gave.

    Args:
        path: of the file, for messages.
        header: the bytes.
        order: of the numbers.
        count: of the entries.
    """
    cursor = Cursor(Kept(path, header))
    cursor.order = order
    return _fields(cursor, count)


def _padded(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment


def _of_part(cursor: Cursor, entries: Iterable[Entry], candidates: tuple[int, ...]) -> int:
    """The alignment by which the file ends where its tensors do; the first where none does."""
    last = max((entry.offset + entry.nbytes for entry in entries), default=0)
    for alignment in candidates:
        if _padded(cursor.at, alignment) + _padded(last, alignment) == cursor.raw.size:
            return alignment
    return candidates[0]


def _version(cursor: Cursor) -> int:
    path, size = cursor.raw.path, cursor.raw.size
    if size < 24:
        raise CheckpointError(
            f"{path}: expected a GGUF file, found {size} bytes, less than a header; "
            f"download it again"
        )
    magic = cursor.take(4, "the magic")
    if magic != MAGIC:
        raise CheckpointError(f"{path}: {_not_gguf(magic, cursor)}")
    found = cursor.integer("I", "the version")
    if found & 0xFFFF == 0:
        cursor.at -= 4
        cursor.order = "big"
        found = cursor.integer("I", "the version")
    if found == 3 or (found == 2 and cursor.order == "little"):
        return found
    hint = (
        "convert the model again with a current convert_hf_to_gguf.py"
        if found < 3
        else "a newer quantload-gguf may read it: pip install -U quantload-gguf"
    )
    raise CheckpointError(
        f"{path}: expected version 2 or 3 of GGUF, found {found} ({cursor.order} endian); {hint}"
    )


def _not_gguf(magic: bytes, cursor: Cursor) -> str:
    if magic in _OLD:
        return (
            f"expected a GGUF file, found one of the older format {_OLD[magic]}; convert the model "
            f"again with a current convert_hf_to_gguf.py"
        )
    if magic == b"vers" and cursor.raw.size < 1024:
        return "expected a GGUF file, found a Git LFS pointer; fetch the file: git lfs pull"
    return f"expected a GGUF file, which begins with {MAGIC!r}; found {magic!r}"


def _plausible(cursor: Cursor, count: int, what: str, smallest: int, limit: int) -> None:
    if count > limit or count * smallest > cursor.remaining:
        raise cursor.error(
            f"the file claims {count} {what}; its {cursor.raw.size} bytes cannot hold them, or no "
            f"model has as many ({limit}); it is damaged: download it again"
        )


def _fields(cursor: Cursor, count: int) -> dict[str, Field]:
    values = Values(cursor)
    fields: dict[str, Field] = {}
    for _ in range(count):
        key = cursor.string("a metadata key")
        if not key or key in fields:
            found = f"{show(key)} a second time" if key else "an empty one"
            raise cursor.error(f"expected a metadata key, found {found}; the file is damaged")
        fields[key] = values.field(show(key))
    return fields


def _alignment(cursor: Cursor, field: Field | None) -> int:
    if field is None:
        return DEFAULT_ALIGNMENT
    value = field.value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value & (value - 1):
        raise CheckpointError(
            f"{cursor.raw.path}: {ALIGNMENT_KEY} is {show(value)}, expected a power of two"
        )
    return value
