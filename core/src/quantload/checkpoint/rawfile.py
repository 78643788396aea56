"""`RawFile`: one open file, mapped privately or read into the caller's memory."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import platform
import stat
import sys
import threading
from pathlib import Path
from typing import Any

from quantload.errors import CheckpointError

logger = logging.getLogger(__name__)

# A private writable mapping counts as memory that may have to be found; without
# MAP_NORESERVE Linux refuses one that is larger than memory. The mmap module
# names the flag from Python 3.13 on; the value is that of these machines.
_NORESERVE: int = getattr(
    mmap, "MAP_NORESERVE", 0x4000 if platform.machine() in ("x86_64", "aarch64") else 0
)


class RawFile:
    """A regular file, kept open so that it stays the same when its name is replaced.

    Thread-safe. Mappings outlive `close()` for as long as a tensor lies in them.

    Attributes:
        path: the file, as it is named in messages.
        size: in bytes, when it was opened.

    Args:
        path: the file.
        real: where it really is, if `path` leads there through links.

    Raises:
        CheckpointError: it cannot be opened or is no regular file.
    """

    def __init__(self, path: Path, real: Path | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None
        self._unmappable = False
        self._fd = -1
        try:
            # O_NONBLOCK: opening a pipe would otherwise wait for its other end.
            flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
            self._fd = os.open(real or path, flags | getattr(os, "O_BINARY", 0))
            status = os.fstat(self._fd)
        except OSError as error:
            self.close()
            raise CheckpointError(f"{path}: cannot be opened ({error.strerror})") from error
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise CheckpointError(f"{path}: expected a regular file, found something else")
        self.size = status.st_size

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._fd < 0

    def close(self) -> None:
        """Close the file. Tensors that were read stay valid."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1
            self._map = None  # unmapped with its last tensor; closing it here would raise

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def is_current(self) -> bool:
        """Whether `path` still leads to the file that is open."""
        try:
            return os.path.samestat(os.fstat(self._fd), self.path.stat())
        except OSError:
            return False

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` (bytes) with the file's bytes from `offset` on.

        Pages that the caller has touched before are what makes this fast.

        Raises:
            CheckpointError: the file is closed, was shortened, or cannot be read.
        """
        while view.nbytes:
            self._check_open()
            try:
                count = self._pread(offset, view)
            except OSError as error:
                raise CheckpointError(
                    f"{self.path}: reading {view.nbytes} bytes at {offset} failed "
                    f"({error.strerror})"
                ) from error
            if count == 0:
                raise CheckpointError(
                    f"{self.path}: expected {view.nbytes} more bytes at {offset}, found the end; "
                    f"the file was shortened after it was opened"
                )
            offset += count
            view = view[count:]

    def _pread(self, offset: int, view: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [view], offset)
        with self._lock, os.fdopen(self._fd, "rb", buffering=0, closefd=False) as file:
            file.seek(offset)
            return file.readinto(view) or 0

    def map(self) -> mmap.mmap | None:
        """The whole file as private memory: writing changes neither file nor other readers.

        None where the file system or the system's limits do not allow it.

        Raises:
            CheckpointError: the file is closed.
        """
        with self._lock:
            self._check_open()
            if self._map is None and not self._unmappable:
                try:
                    self._map = _map_private(self._fd, self.size)
                except (OSError, ValueError) as error:
                    self._unmappable = True
                    logger.debug(
                        "%s cannot be mapped (%s); its tensors are copied", self.path, error
                    )
            return self._map

    def release(self, offset: int, nbytes: int) -> None:
        """Drop the mapped pages that lie wholly inside a range; see `Checkpoint.release`."""
        first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (offset + nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        with self._lock:
            if self._map is not None and last > first and hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _check_open(self) -> None:
        if self._fd < 0:
            raise CheckpointError(f"{self.path}: the checkpoint was closed; open it again to read")


def _map_private(fd: int, size: int) -> mmap.mmap:
    if size == 0:
        raise OSError(errno.EINVAL, "an empty file cannot be mapped")
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
    # Before 3.13 the mapping keeps a duplicate of the descriptor, one per file.
    options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    return mmap.mmap(
        fd,
        size,
        flags=mmap.MAP_PRIVATE | _NORESERVE,
        prot=mmap.PROT_READ | mmap.PROT_WRITE,
        **options,
    )
