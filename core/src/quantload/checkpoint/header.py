"""The header of a safetensors file: read, and believed only once it is checked.

A file is eight bytes of header length (little endian), that many bytes of JSON,
and the tensors' bytes without gaps. The JSON is walked member by member instead
of being parsed whole: duplicate names are seen, and a hostile header costs no more
memory than a few times its own length.

Source of the format: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import re
from pathlib import Path

from quantload.checkpoint.dtypes import BITS
from quantload.checkpoint.jsonwalk import FormError, flat_object, skip, string, walk
from quantload.checkpoint.paths import show
from quantload.checkpoint.tensorinfo import TensorInfo
from quantload.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""The limit that the format sets."""
MAX_DIMENSIONS = 64
"""What torch can compute with."""
MAX_ELEMENTS = 2**63 - 1

# What the safetensors library writes for a tensor; other spellings take the slow way.
_NUMBER = "(?:0|[1-9][0-9]{0,18})"
_usual_entry = re.compile(
    rf'\{{"dtype":"(\w+)","shape":\[((?:{_NUMBER}(?:,{_NUMBER}){{0,63}})?)\],'
    rf'"data_offsets":\[({_NUMBER}),({_NUMBER})\]\}}'
).match


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
    start = 8 + len(raw)
    found: dict[str, TensorInfo] = {}
    metadata: dict[str, str] | None = None

    def member(name: str, at: int) -> int:
        nonlocal metadata
        if name in found or (metadata is not None and name == "__metadata__"):
            raise FormError(f"expected each name once, found {show(name)} twice")
        if name == "__metadata__":
            pairs = metadata = {}
            return walk(text, at, lambda key, where: _metadata(text, key, where, pairs))
        try:
            dtype, shape, begin, end, at = _entry(text, at)
            info = _tensor(name, dtype, shape, begin, end, file, start)
            if info.offset + info.nbytes > size:
                raise FormError(
                    f"ends at byte {info.offset + info.nbytes}, but the file has {size} bytes; it "
                    f"is truncated (copy or download it again) or its header is wrong"
                )
        except (FormError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{file}: tensor {show(name)}: {error}") from error
        found[name] = info
        return at

    try:
        at = walk(text, 0, member)
        if skip(text, at) != len(text):
            raise FormError(f"expected the end of the header at character {at}, found more")
    except CheckpointError:
        raise
    except (FormError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: the header is not what safetensors says: {error}"
        ) from error
    return _in_file_order(list(found.values()), file, start, size), metadata or {}


def _metadata(text: str, key: str, at: int, into: dict[str, str]) -> int:
    if key in into:
        raise FormError(f"expected each key of __metadata__ once, found {show(key)} twice")
    if text[at : at + 1] != '"':
        raise FormError(f"expected text for {show(key)} in __metadata__, found something else")
    into[key], end = string(text, at)
    return end


def _entry(text: str, at: int) -> tuple[str, list[int], int, int, int]:
    """dtype, shape, begin and end of the data, and the position after the entry."""
    usual = _usual_entry(text, at)
    if usual is not None:
        dtype, sizes, begin, end = usual.groups()
        shape = [int(size) for size in sizes.split(",")] if sizes else []
        return dtype, shape, int(begin), int(end), usual.end()
    entry, at = flat_object(text, at)
    offsets = entry.get("data_offsets")
    if not isinstance(entry.get("dtype"), str):
        raise FormError(f"expected a dtype, found {show(entry.get('dtype'))}")
    if not _are_sizes(entry.get("shape")):
        raise FormError(f"expected a shape of sizes from 0 up, found {show(entry.get('shape'))}")
    if not _are_sizes(offsets) or len(entry["data_offsets"]) != 2:
        raise FormError(f"expected data_offsets [begin, end] from 0 up, found {show(offsets)}")
    return entry["dtype"], entry["shape"], *entry["data_offsets"], at


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _tensor(
    name: str, dtype: str, shape: list[int], begin: int, end: int, file: Path, start: int
) -> TensorInfo:
    bits = BITS.get(dtype)
    if bits is None:
        raise FormError(
            f"expected a dtype ({', '.join(sorted(BITS))}), found {show(dtype)}; if it is a new "
            f"one, a newer quantload may know it"
        )
    if len(shape) > MAX_DIMENSIONS:
        raise FormError(f"expected at most {MAX_DIMENSIONS} dimensions, found {len(shape)}")
    if begin > end:
        raise FormError(f"expected data_offsets that ascend, found {[begin, end]}")
    elements, reach = 1, 1
    for length in shape:
        elements *= length
        reach *= length or 1
        if reach > MAX_ELEMENTS:
            raise FormError(f"shape {show(shape)} has too many elements")
    if elements * bits != (end - begin) * 8:
        whole, rest = divmod(elements * bits, 8)
        expected = f"{elements * bits} bits" if rest else f"{whole} bytes"
        raise FormError(
            f"{dtype} of shape {shape} takes {expected}, found data_offsets of {end - begin} bytes"
        )
    return TensorInfo(name, dtype, tuple(shape), end - begin, file, start + begin)


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
