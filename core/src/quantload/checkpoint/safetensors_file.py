"""`SafetensorsFile`: one file, opened by reading its header only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from quantload.checkpoint.header import MAX_HEADER_BYTES, parse_header
from quantload.checkpoint.rawfile import RawFile
from quantload.checkpoint.tensorinfo import TensorInfo
from quantload.errors import CheckpointError


class SafetensorsFile:
    """The tensors and metadata of one safetensors file.

    Attributes:
        path: the file, as it is named in messages.
        raw: the open file.
        tensors: name -> `TensorInfo`, in file order.
        metadata: the text pairs of `__metadata__`.

    Args:
        path: the file.
        real: where it really is, if `path` leads there through links.

    Raises:
        CheckpointError: it cannot be opened or is not a whole, consistent safetensors file.
    """

    def __init__(self, path: str | os.PathLike[str], *, real: Path | None = None) -> None:
        self.path = Path(path)
        self.raw = RawFile(self.path, real)
        try:
            tensors, metadata = parse_header(self._header(), self.path, self.raw.size)
        except BaseException:
            self.raw.close()
            raise
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(tensors)
        self.metadata: Mapping[str, str] = MappingProxyType(metadata)

    def _header(self) -> bytearray:
        size = self.raw.size
        if size < 8:
            raise CheckpointError(
                f"{self.path}: expected a safetensors file, which begins with 8 bytes of header "
                f"length, found {size} bytes; copy or download it again"
            )
        length = int.from_bytes(self._bytes(0, 8), "little")
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{self.path}: expected a header of at most {MAX_HEADER_BYTES} bytes, the first 8 "
                f"bytes say {length}; this is not a safetensors file, or it is damaged"
            )
        if 8 + length > size:
            raise CheckpointError(
                f"{self.path}: the header takes {length} bytes, but the file has only {size - 8} "
                f"after its first 8; it is truncated (copy or download it again) or no safetensors"
            )
        return self._bytes(8, length)

    def _bytes(self, offset: int, count: int) -> bytearray:
        buffer = bytearray(count)
        self.raw.read_into(offset, memoryview(buffer))
        return buffer

    def close(self) -> None:
        """Close the file; tensors that were read stay valid."""
        self.raw.close()
