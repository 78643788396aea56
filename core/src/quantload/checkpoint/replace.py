"""Replacing a checkpoint folder so that a kill at any moment leaves the old or the new one.

A folder that does not exist yet is written beside its place, as
`.NAME.quantload-save/new`, and renamed. In one that exists, the new files are written
into `.quantload-save/new` inside it; then a journal is written that says what is to
happen, and only then does it happen: the files that lead readers to the rest
(`config.json`, the index) are taken away, stale ones removed, new ones renamed into
place, those that lead to the rest last. Until the journal is there, the old checkpoint
is whole. From then on whoever opens or saves next completes what is missing (`recover`),
and a reader that knows nothing of this finds no `config.json`, never a mixture.

The folder itself stays the same one, and so do mounts, permissions, a shell that is
in it and every file that is not the checkpoint's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from quantload.checkpoint.journal import JOURNAL, NEW, apply_journal, sync_folder, write_journal
from quantload.checkpoint.lock import LOCK, NO_LOCKS, WorkFolder
from quantload.errors import CheckpointError

WORK = ".quantload-save"
WAIT_SECONDS = 30.0
"""How long a reader waits for another process to rename its files into place."""


class FolderReplacement:
    """New contents for a folder: files put into `new`, then `commit()` or `abort()`.

    Attributes:
        target: the folder, links followed.
        new: where the files go meanwhile; on the same file system.

    Args:
        folder: the folder; it and its parents are made if need be. Another process
            that is saving here is waited for.

    Raises:
        CheckpointError: it is no folder, or this thread is saving here already.
        OSError: it cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.target = Path(folder).expanduser().resolve()
        self._made: list[Path] = []
        self._decided = False
        recover(self.target)
        while True:
            self._fresh = not self.target.is_dir()
            if self._fresh:
                self._make_parents()
            self._work = WorkFolder.acquire(
                _beside(self.target) if self._fresh else self.target / WORK
            )
            if not (self._fresh and self.target.is_dir()):
                break
            self._work.release(remove=True)  # the one that was waited for made the folder
        self.new = self._work.path / NEW
        try:
            _finish(self._work.path, self.target)
            self.new.mkdir()
        except BaseException:
            self._work.release(remove=True)
            raise

    def commit(
        self, *, entries: Sequence[str], remove: Iterable[str] = (), sync: bool = True
    ) -> None:
        """Put the files in place, all or none.

        Args:
            entries: names of the files that lead readers to the rest, in the order
                in which they are to appear.
            remove: names of files in the old folder that go away.
            sync: wait until everything is on the disk, so that it survives a power cut.

        Raises:
            CheckpointError: something is in the way, or the files are complete but
                could not all be put in place; then the next opening does it.
            OSError: the folder cannot be written; nothing has changed.
        """
        names = sorted(
            path.relative_to(self.new).as_posix()
            for path in self.new.rglob("*")
            if not path.is_dir()
        )
        last = [name for name in entries if name in names]
        install = [*(name for name in names if name not in last), *last]
        if sync:
            _sync_tree(self.new)
        if self._fresh and not self._publish():
            self._move_inside()
        if not self._fresh:
            write_journal(self._work.path, self.target, install, remove, [*reversed(entries)])
        self._decided = True
        try:
            _finish(self._work.path, self.target)
        except OSError as error:
            self._work.release(remove=False)
            raise CheckpointError(
                f"{self.target}: the new files are complete but could not all be put in place "
                f"({error}); mend that and open the folder with quantload, which completes it"
            ) from error
        except BaseException:
            # An interruption comes too late to leave the old one.
            with contextlib.suppress(OSError, CheckpointError):
                _finish(self._work.path, self.target)
            self._work.release(remove=True)
            raise
        self._work.release(remove=True)

    def abort(self) -> None:
        """Leave everything as it was; after `commit()` it does nothing."""
        if self._decided:
            return
        self._decided = True
        with contextlib.suppress(OSError):
            _empty(self._work.path)
        self._work.release(remove=True)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _make_parents(self) -> None:
        if os.path.lexists(self.target):
            raise CheckpointError(f"{self.target}: expected a folder to save into, found a file")
        missing = []
        for folder in self.target.parents:
            if folder.is_dir():
                break
            missing.append(folder)
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            self._made.append(folder)

    def _publish(self) -> bool:
        try:
            self.new.rename(self.target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        sync_folder(self.target.parent)
        return True

    def _move_inside(self) -> None:
        """Somebody made the folder meanwhile: go on as for one that exists."""
        inner = WorkFolder.acquire(self.target / WORK)
        try:
            _finish(inner.path, self.target)
            self.new.rename(inner.path / NEW)
        except BaseException:
            inner.release(remove=True)
            raise
        self._work.release(remove=True)
        self._work, self.new, self._fresh = inner, inner.path / NEW, False


def recover(folder: str | os.PathLike[str]) -> None:
    """Complete a save that was killed while it replaced `folder`, and clear its remains.

    Does nothing where no save was interrupted. A living process that is saving is
    left alone, except that its last step, renaming files into place, is waited for.

    Raises:
        CheckpointError: files were being replaced and it cannot be completed from
            here, because the folder cannot be written or the other process hangs.
    """
    target = Path(folder).expanduser().resolve()
    for work in (target / WORK, _beside(target)):
        if work.is_dir() and not work.is_symlink():
            _recover(work, target)


def _recover(work: Path, target: Path) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        why = "another process is at it"
        try:
            own = WorkFolder.acquire_if_free(work)
        except OSError as error:
            own, why = None, f"{work / LOCK} cannot be locked: {error.strerror}"
            if error.errno in NO_LOCKS and time.monotonic() > deadline:
                own = WorkFolder.acquire(work)  # nobody takes this long for it who lives
        if own is not None:
            try:
                _finish(work, target)
            except OSError as error:
                own.release(remove=False)
                raise CheckpointError(
                    f"{target}: a save was interrupted here and cannot be completed ({error}); "
                    f"open the folder once with permission to write to it"
                ) from error
            except BaseException:
                own.release(remove=False)
                raise
            own.release(remove=True)
            return
        if not os.path.lexists(work / JOURNAL):
            return  # whoever has it is still writing: the old checkpoint is whole
        if time.monotonic() > deadline:
            raise CheckpointError(
                f"{target}: a save is replacing files here and has not finished within "
                f"{WAIT_SECONDS:.0f} s ({why}); if no process is saving, open the folder once with "
                f"permission to write to it"
            )
        time.sleep(0.01)


def _finish(work: Path, target: Path) -> None:
    """With the lock held: complete what was decided, remove the rest."""
    if os.path.lexists(work / JOURNAL):
        apply_journal(work, target)
    _empty(work)


def _empty(work: Path) -> None:
    for entry in work.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def _beside(target: Path) -> Path:
    name = f".{target.name}{WORK}"
    if len(os.fsencode(name)) > 255:
        from hashlib import sha256  # slow to import, and hardly ever needed

        name = f".{sha256(os.fsencode(target.name)).hexdigest()}{WORK}"
    return target.parent / name


def _sync_tree(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
            continue
        with path.open("rb+") as file:
            os.fsync(file.fileno())
