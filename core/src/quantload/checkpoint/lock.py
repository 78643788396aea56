"""A work folder that one process has at a time, and that shows when its owner is dead."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import threading
import time
from pathlib import Path

from quantload.errors import CheckpointError

# On Windows nothing keeps two processes from saving to one folder at the same time.
if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

LOCK = "lock"
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_held: dict[str, int] = {}
"""Locked work folder -> thread that locked it."""


class WorkFolder:
    """A folder for unfinished work, locked through a file inside it.

    The lock is the kernel's, on an open file: it ends with the process, however
    that ends, and does not depend on process numbers or clocks. A work folder that
    can be locked has therefore no living owner. On a file system without locks
    `acquire` takes it unlocked.

    Use `acquire` or `acquire_if_free`.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        _held[str(path)] = threading.get_ident()

    @classmethod
    def acquire(cls, path: Path) -> WorkFolder:
        """Make the folder, or wait until whoever has it is done.

        Raises:
            CheckpointError: this very thread has it.
            OSError: it cannot be made.
        """
        if _held.get(str(path)) == threading.get_ident():
            raise CheckpointError(
                f"{path.parent}: a checkpoint is already being written here by the same thread; "
                f"finish that one first"
            )
        announced = False
        while True:
            with contextlib.suppress(FileExistsError):
                path.mkdir()
            try:
                found = cls._try(path, unlocked=True)
            except FileNotFoundError:
                continue  # its last owner removed it between the two lines
            if found is not None:
                return found
            if not announced:
                logger.warning("%s: waiting for another process that is saving here", path.parent)
                announced = True
            time.sleep(0.02)

    @classmethod
    def acquire_if_free(cls, path: Path) -> WorkFolder | None:
        """Lock the folder if it exists and its owner is dead; None otherwise.

        Raises:
            OSError: it cannot be locked: the file system is read-only, or has no
                locks (then `errno` is one of `NO_LOCKS`).
        """
        try:
            return cls._try(path, unlocked=False)
        except FileNotFoundError:
            return None

    @classmethod
    def _try(cls, path: Path, *, unlocked: bool) -> WorkFolder | None:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path))
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        fd = os.open(path / LOCK, flags, 0o666)
        try:
            if sys.platform != "win32":
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(fd)
                    return None
                except OSError as error:
                    if not unlocked or error.errno not in NO_LOCKS:
                        raise
            # The owner before us removes the file: then this is a lock on nothing.
            if not os.path.samestat(os.fstat(fd), (path / LOCK).stat()):
                raise FileNotFoundError(path / LOCK)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise
        return cls(path, fd)

    def release(self, *, remove: bool) -> None:
        """Unlock; `remove` takes the (emptied) folder away too."""
        _held.pop(str(self.path), None)
        if sys.platform == "win32":
            os.close(self._fd)  # Windows removes no open file
        if remove:
            with contextlib.suppress(OSError):
                (self.path / LOCK).unlink()
                self.path.rmdir()  # not empty: the next one is at work already
        if sys.platform != "win32":
            os.close(self._fd)
