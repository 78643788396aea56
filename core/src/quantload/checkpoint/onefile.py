"""Replacing one file, so that it is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from quantload.checkpoint.journal import sync_folder
from quantload.errors import CheckpointError


@contextlib.contextmanager
def replaced_file(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends.

    Readers that have the old file open keep it. When the block raises, nothing changes.

    Args:
        path: the file; folders that lead to it are made.
        sync: wait until it is on the disk.

    Raises:
        CheckpointError: there is a folder of this name, or it cannot be written.
    """
    target = Path(path).expanduser()
    target = target.parent.resolve() / target.name
    if target.is_dir():
        raise CheckpointError(f"{target}: expected a file to write, found a folder")
    draft = target.parent / f".quantload-{secrets.token_hex(8)}{target.suffix}"
    made = [folder for folder in target.parents if not folder.is_dir()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        if sync:
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
        draft.replace(target)
        if sync:
            sync_folder(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise CheckpointError(
                f"{target}: saving failed ({error}); nothing was changed there"
            ) from error
        raise
