"""`Cursor`: the beginning of a file, read piece by piece and never past its end."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal, Protocol

from quantload.errors import CheckpointError

ByteOrder = Literal["little", "big"]

FIRST_READ = 1 << 18
MAX_HEADER_BYTES = 1 << 27
"""Larger headers are damage: the largest vocabularies take some tens of megabytes."""


class Source(Protocol):
    """Where a header is read from: an open file, or bytes that were kept of one.

    Attributes:
        path: the file, for messages.
        size: in bytes.
    """

    path: Path
    size: int

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from `offset` on."""


class Kept:
    """Bytes of a header that was read before.

    Args:
        path: the file they are from.
        data: the bytes.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.size, self._data = path, len(data), data

    def read_into(self, offset: int, target: memoryview) -> None:
        """See `Source.read_into`."""
        target[:] = memoryview(self._data)[offset : offset + len(target)]


class Cursor:
    """A place in a file's header that moves on as values are taken.

    Args:
        raw: the open file.
    """

    def __init__(self, raw: Source) -> None:
        self.raw = raw
        self.at = 0
        self._read = bytearray()
        self._order = "<"

    @property
    def order(self) -> ByteOrder:
        """Byte order of the numbers."""
        return "little" if self._order == "<" else "big"

    @order.setter
    def order(self, value: ByteOrder) -> None:
        self._order = "<" if value == "little" else ">"

    def since(self, start: int) -> bytes:
        """What was taken from a place on."""
        return bytes(memoryview(self._read)[start : self.at])

    @property
    def remaining(self) -> int:
        """Bytes from here to the end of the file."""
        return self.raw.size - self.at

    def error(self, message: str) -> CheckpointError:
        """An error that names the file and where in it."""
        return CheckpointError(f"{self.raw.path}: at byte {self.at}: {message}")

    def take(self, nbytes: int, what: str) -> bytes:
        """The next bytes.

        Raises:
            CheckpointError: the file ends before them, or they are too many to be a header.
        """
        self._reach(nbytes, what)
        start, self.at = self.at, self.at + nbytes
        return bytes(memoryview(self._read)[start : self.at])

    def number(self, code: str, what: str) -> int | float:
        """The next number, by its `struct` code."""
        self._reach(struct.calcsize(code), what)
        (value,) = struct.unpack_from(self._order + code, self._read, self.at)
        self.at += struct.calcsize(code)
        found: int | float = value
        return found

    def integer(self, code: str, what: str) -> int:
        """The next whole number."""
        return int(self.number(code, what))

    def string(self, what: str) -> str:
        """The next string: a length in eight bytes, then UTF-8."""
        length = self.integer("Q", f"the length of {what}")
        data = self.take(length, what)
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError as error:
            self.at -= length
            raise self.error(f"{what} is not UTF-8 ({error.reason})") from None

    def strings(self, count: int, what: str) -> list[str]:
        """Many strings after each other; what `string` does, in one go."""
        unpack = struct.Struct(self._order + "Q").unpack_from
        found: list[str] = []
        at = self.at
        for _ in range(count):
            if at + 8 > len(self._read):
                self.at = at
                self._reach(8, what)
            start = at + 8
            stop = start + unpack(self._read, at)[0]
            if stop > len(self._read):
                self.at = start
                self._reach(stop - start, what)
            try:
                found.append(self._read[start:stop].decode())
            except UnicodeDecodeError as error:
                self.at = start
                raise self.error(
                    f"{what}: entry {len(found)} is not UTF-8 ({error.reason})"
                ) from None
            at = stop
        self.at = at
        return found

    def _reach(self, nbytes: int, what: str) -> None:
        if nbytes > self.remaining:
            raise self.error(
                f"expected {nbytes} bytes of {what}, found {self.remaining} to the end of the "
                f"file; it is cut short or damaged: download it again"
            )
        end = self.at + nbytes
        if end > MAX_HEADER_BYTES:
            raise self.error(
                f"{what} takes {nbytes} bytes, and with it the header is larger than "
                f"{MAX_HEADER_BYTES} bytes; the file is damaged: download it again"
            )
        have = len(self._read)
        if end > have:
            upto = min(max(end, 2 * have, FIRST_READ), self.raw.size, MAX_HEADER_BYTES)
            fresh = bytearray(upto - have)
            self.raw.read_into(have, memoryview(fresh))
            self._read += fresh
