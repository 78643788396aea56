"""`ShardWriter`: one safetensors file, written tensor by tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantload.checkpoint.dtypes import BITS
from quantload.checkpoint.tensorinfo import ALIGNMENT

RESERVE = 1024 * 1024
"""Bytes left free for the header, whose length is known only at the end."""
HELD_BYTES = 64 * 1024 * 1024
"""How many bytes of odd-sized tensors wait for the end of the file."""
HEADER_PER_TENSOR = 200
"""A generous length of a header entry without the name, in bytes."""


class ShardWriter:
    """Writes a file whose tensors become known one at a time.

    The data goes behind a reserve for the header. Tensors whose size is a multiple
    of 16 bytes come first, in the order in which they are added, so that all of
    them are aligned; the others (scalars, JSON in bytes) wait until the end.

    Args:
        path: the file; must not exist.
        metadata: the `__metadata__`.
        reserve: bytes left for length and header.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str], reserve: int = RESERVE) -> None:
        self.path = path
        self.names: list[str] = []
        self.nbytes = 0
        self.header_bound = 100 + len(json.dumps(dict(metadata)))
        self._reserve = -(-reserve // 64) * 64
        self._metadata = dict(metadata)
        self._entries: dict[str, dict[str, Any]] = {}
        self._held: list[tuple[int, str, bytes]] = []
        self._at = 0
        self._file = path.open("xb", buffering=0)
        self._file.seek(self._reserve)

    def add(self, name: str, dtype: str, shape: tuple[int, ...], data: memoryview) -> None:
        """Append a tensor; see `bytes_of` for what describes it.

        Raises:
            OSError: writing failed.
        """
        self._entries[name] = {"dtype": dtype, "shape": list(shape)}
        self.names.append(name)
        self.nbytes += data.nbytes
        self.header_bound += entry_bound(name)
        if data.nbytes % ALIGNMENT == 0:
            self._write(name, data)
            return
        if data.nbytes + sum(len(held) for _, _, held in self._held) > HELD_BYTES:
            self._write_held()
        if data.nbytes > HELD_BYTES:
            self._write(name, data)  # what follows in this file will be copied when it is read
        else:
            # A copy: the caller may fill the same memory again.
            self._held.append((-BITS[dtype], name, bytes(data)))

    def close(self) -> int:
        """Write the header and close the file; returns the header's length.

        Raises:
            OSError: writing failed.
        """
        self._write_held()
        in_order = sorted(self._entries.items(), key=lambda item: item[1]["data_offsets"])
        header = json.dumps(
            {**({"__metadata__": self._metadata} if self._metadata else {}), **dict(in_order)},
            separators=(",", ":"),
            ensure_ascii=False,
        ).encode("utf-8")
        length = -(-(8 + len(header)) // 64) * 64 - 8
        with self._file:
            fits = 8 + length <= self._reserve
            if fits and (self._reserve - length) * 100 <= self._at:
                length = self._reserve - 8
                self._file.seek(0)
                self._put(_framed(header, length))
                return length
        # The reserve was too small, or much too large for so little data.
        draft = self.path.with_name(self.path.name + ".data")
        self.path.rename(draft)
        with draft.open("rb") as source, self.path.open("xb", buffering=0) as self._file:
            self._put(_framed(header, length))
            source.seek(self._reserve)
            shutil.copyfileobj(source, self._file, 1024 * 1024)
        draft.unlink()
        return length

    def abandon(self) -> None:
        """Close the unfinished file."""
        self._file.close()

    def _write_held(self) -> None:
        for _, name, data in sorted(self._held, key=lambda held: held[0]):
            self._write(name, memoryview(data))
        self._held.clear()

    def _write(self, name: str, data: memoryview) -> None:
        self._entries[name]["data_offsets"] = [self._at, self._at + data.nbytes]
        self._put(data)
        self._at += data.nbytes

    def _put(self, data: memoryview | bytes) -> None:
        view = memoryview(data)
        while view.nbytes:
            view = view[self._file.write(view) or 0 :]


def entry_bound(name: str) -> int:
    """An upper bound of the bytes that a tensor of this name adds to a header."""
    return HEADER_PER_TENSOR + 6 * len(name)


def _framed(header: bytes, length: int) -> bytes:
    return length.to_bytes(8, "little") + header.ljust(length)
