"""Replacing one file, or several that are one, so that all is there or nothing is."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
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


@contextlib.contextmanager
def replaced_parts(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[Path]:
    """A path to write beside, whose files take their places when the block ends.

    The files lie in a folder of their own meanwhile. They are moved one after the other, the
    first by name last and after the old one of that name is gone: a model of which some parts
    are old and some new is never complete. When the block raises, nothing changes.

    Args:
        path: the name that those of the files are made from; folders that lead to it are made.
        sync: wait until they are on the disk.

    Raises:
        CheckpointError: there is a folder in a file's place, or they cannot be written.
    """
    target = Path(path).expanduser()
    target = target.parent.resolve() / target.name
    drafts = target.parent / f".quantload-{secrets.token_hex(8)}"
    made = [folder for folder in target.parents if not folder.is_dir()]
    try:
        drafts.mkdir(parents=True)
        yield drafts / target.name
        names = sorted(file.name for file in drafts.iterdir())
        blocked = [name for name in names if (target.parent / name).is_dir()]
        if blocked:
            raise CheckpointError(
                f"{target.parent / blocked[0]}: expected a file to write, found a folder"
            )
        if sync:
            for name in names:
                with (drafts / name).open("rb+") as file:
                    os.fsync(file.fileno())
        (target.parent / names[0]).unlink(missing_ok=True)
        for name in reversed(names):
            (drafts / name).replace(target.parent / name)
        drafts.rmdir()
        if sync:
            sync_folder(target.parent)
    except BaseException as error:
        shutil.rmtree(drafts, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise CheckpointError(f"{target}: saving failed ({error})") from error
        raise
