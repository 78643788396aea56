"""The header of a safetensors file: read, and believed only once it is checked.

A file is eight bytes of header length (little endian), that many bytes of JSON,
and the tensors' bytes without gaps. The JSON is walked member by member instead
of being parsed whole: duplicate names are seen, and a hostile header costs no more
memory than a few times its own length.

Source of the format: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantload.checkpoint.dtypes import BITS
from quantload.checkpoint.paths import show
from quantload.checkpoint.tensorinfo import TensorInfo
from quantload.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""The limit that the format sets."""
MAX_ENTRY_CHARACTERS = 10_000
MAX_DIMENSIONS = 64
"""What torch can compute with."""
MAX_ELEMENTS = 2**63 - 1

_space = re.compile(r"[ \t\n\r]*").match


class _FormError(Exception):
    """The JSON is not of the expected form; `args[0]` says what was expected and found."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _FormError("expected each key once in an entry, found one twice")
    return found


_decode_string = json.JSONDecoder().raw_decode
_decode_entry = json.JSONDecoder(object_pairs_hook=_unique).decode


def parse_header(
    raw: bytes | bytearray, file: Path, size: int
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors (in file order) and metadata of a safetensors file.

    Args:
        raw: the JSON bytes, without the length before them.
        file: the file, for messages and for `TensorInfo.file`.
        size: of the whole file, in bytes.

    Raises:
        CheckpointError: anything is not as the format says; names the tensor.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{file}: expected a header in UTF-8, found byte 0x{raw[error.start]:02x} at byte "
            f"{8 + error.start}; this is not a safetensors file, or it is damaged"
        ) from error
    data_start = 8 + len(raw)
    found: list[TensorInfo] = []
    seen: set[str] = set()
    metadata: dict[str, str] = {}

    def member(name: str, at: int) -> int:
        if name in seen:
            raise CheckpointError(f"{file}: expected each name once, found {show(name)} twice")
        seen.add(name)
        if name == "__metadata__":
            return _walk(text, at, lambda key, where: _metadata(text, key, where, metadata))
        entry, end = _entry(text, at, name)
        found.append(_tensor(name, entry, file, data_start, size))
        return end

    try:
        end = _walk(text, 0, member)
        if _skip(text, end) != len(text):
            raise _FormError(f"expected the end of the header at character {end}, found more")
    except CheckpointError:
        raise
    except (_FormError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: the header is not what safetensors says: {error}"
        ) from error
    return _in_file_order(found, file, data_start, size), metadata


def _skip(text: str, at: int) -> int:
    match = _space(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, character: str) -> int:
    if text[at : at + 1] != character:
        raise _FormError(
            f"expected {character!r} at character {at}, found {text[at : at + 1]!r}"
            if at < len(text)
            else f"expected {character!r}, found the end"
        )
    return at + 1


def _string(text: str, at: int) -> tuple[str, int]:
    _expect(text, at, '"')
    value, end = _decode_string(text, at)
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise _FormError(
                f"expected text, found half a surrogate pair at character {at}"
            ) from None
    return value, end


def _walk(text: str, at: int, member: Callable[[str, int], int]) -> int:
    """Walk the object at `at`; `member(key, start)` takes each value and gives its end."""
    at = _skip(text, _expect(text, at, "{"))
    if text[at : at + 1] == "}":
        return at + 1
    while True:
        key, at = _string(text, at)
        at = _skip(text, _expect(text, _skip(text, at), ":"))
        at = _skip(text, member(key, at))
        if text[at : at + 1] == "}":
            return at + 1
        at = _skip(text, _expect(text, at, ","))


def _metadata(text: str, key: str, at: int, into: dict[str, str]) -> int:
    if key in into:
        raise _FormError(f"expected each key of __metadata__ once, found {show(key)} twice")
    if text[at : at + 1] != '"':
        raise _FormError(f"expected text for {show(key)} in __metadata__, found something else")
    into[key], end = _string(text, at)
    return end


def _entry(text: str, at: int, name: str) -> tuple[dict[str, Any], int]:
    """The object of one tensor; it has no object inside, so it ends at the first brace."""
    _expect(text, at, "{")
    end = text.find("}", at, at + MAX_ENTRY_CHARACTERS) + 1
    if not end:
        raise _FormError(f"expected the entry of tensor {show(name)} to end, it does not")
    try:
        entry = _decode_entry(text[at:end])
    except (_FormError, ValueError, RecursionError) as error:
        raise _FormError(f"the entry of tensor {show(name)} cannot be read: {error}") from error
    return entry, end


def _tensor(name: str, entry: dict[str, Any], file: Path, start: int, size: int) -> TensorInfo:
    where = f"{file}: tensor {show(name)}"
    dtype = entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise CheckpointError(
            f"{where}: expected a dtype ({', '.join(sorted(BITS))}), found {show(dtype)}; "
            f"if it is a new one, a newer quantload may know it"
        )
    shape = _integers(entry.get("shape"))
    if shape is None or len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(
            f"{where}: expected a shape of at most {MAX_DIMENSIONS} sizes from 0 up, "
            f"found {show(entry.get('shape'))}"
        )
    offsets = _integers(entry.get("data_offsets"))
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            f"{where}: expected data_offsets [begin, end] with 0 <= begin <= end, "
            f"found {show(entry.get('data_offsets'))}"
        )
    elements, reach = 1, 1
    for length in shape:
        elements *= length
        reach *= length or 1
        if reach > MAX_ELEMENTS:
            raise CheckpointError(f"{where}: shape {show(shape)} has too many elements")
    bits, nbytes = elements * BITS[dtype], offsets[1] - offsets[0]
    if bits != nbytes * 8:
        expected = f"{bits // 8} bytes" if bits % 8 == 0 else f"{bits} bits"
        raise CheckpointError(
            f"{where}: {dtype} of shape {shape} takes {expected}, "
            f"found data_offsets of {nbytes} bytes"
        )
    if start + offsets[1] > size:
        raise CheckpointError(
            f"{where}: ends at byte {start + offsets[1]}, but the file has {size} bytes; "
            f"it is truncated (copy or download it again) or its header is wrong"
        )
    return TensorInfo(name, dtype, tuple(shape), nbytes, file, start + offsets[0])


def _integers(value: object) -> list[int] | None:
    """`value` where it is a list of whole numbers from 0 up, else None."""
    if isinstance(value, list) and all(type(item) is int and item >= 0 for item in value):
        return value
    return None


def _in_file_order(
    found: list[TensorInfo], file: Path, start: int, size: int
) -> dict[str, TensorInfo]:
    """Sort by place and check that the tensors cover the data, each byte once."""
    found.sort(key=lambda info: (info.offset, info.nbytes))
    at, last = start, "the header"
    for info in found:
        if info.offset != at:
            what = "overlap" if info.offset < at else "leave a gap"
            raise CheckpointError(
                f"{file}: tensor {show(info.name)} and {last} {what}: expected it to begin at byte "
                f"{at}, found {info.offset}"
            )
        at, last = at + info.nbytes, f"tensor {show(info.name)}"
    if at != size:
        raise CheckpointError(
            f"{file}: expected the file to end with {last} at byte {at}, "
            f"found {size - at} bytes more"
        )
    return {info.name: info for info in found}
