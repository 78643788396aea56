"""`open_checkpoint`: from a path on this machine to a `Checkpoint`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from quantload.checkpoint.base import CONFIG, GENERATION_CONFIG, Checkpoint
from quantload.checkpoint.choosing import models_in, several
from quantload.checkpoint.folder import SafetensorsCheckpoint
from quantload.checkpoint.formats import format_reader, known_suffixes
from quantload.checkpoint.locate import (
    SUFFIX,
    is_index,
    is_pickle,
    locate_weights,
    no_weights,
    pickle_refused,
)
from quantload.checkpoint.paths import plain_name
from quantload.checkpoint.replace import recover
from quantload.errors import CheckpointError

ATTEMPTS = 5


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    base_name: str | None = None,
    index_name: str | None = None,
    files: Sequence[str] | None = None,
    mmap: bool = True,
) -> Checkpoint:
    """Open the checkpoint at a path; reads headers only and imports no torch.

    A file is opened as what its suffix says: `.safetensors` of any name, the index
    of several, or a format that a plugin reads. In a folder the weights are looked
    for as `locate_weights` says. A save that was interrupted while it replaced the
    folder is completed first.

    Args:
        path: a file or folder; see `resolve_source` for names on the hub.
        variant: "fp16" for `model.fp16.safetensors` and its like.
        base_name: name of the weights without suffix, where it is not `model`.
        index_name: the index file to use.
        files: the files to use, all of them and no others.
        mmap: whether tensors may lie in the mapped file; see `Checkpoint.read`.

    Raises:
        CheckpointError: there is nothing to open, it is not clear what to open,
            it is a pickle, or a file is not whole and consistent.
        UnknownMethodError: no plugin is installed for a file's format; the
            message names the distribution that has one.
    """
    where = Path(path).expanduser()
    if not where.exists():
        recover(where)
        recover(where.parent)  # a file that an interrupted save has yet to put in place
        if not where.exists():
            raise CheckpointError(f"{where}: no such file or folder")
    folder = where if where.is_dir() else where.parent
    for attempt in range(ATTEMPTS):
        recover(folder)
        configs, listing = _stamps(folder / CONFIG, folder / GENERATION_CONFIG), _stamps(folder)
        try:
            if not where.is_dir():
                opened = _open_file(where, mmap=mmap)
            elif files is not None:
                opened = SafetensorsCheckpoint.open_files(where, files, mmap=mmap)
            elif index_name is not None:
                opened = SafetensorsCheckpoint.open_index(
                    where, plain_name(index_name, f"{where}: index_name"), mmap=mmap
                )
            else:
                opened = _open_folder(where, variant, base_name, mmap=mmap)
        except CheckpointError:
            if attempt + 1 < ATTEMPTS and _stamps(folder) != listing:
                continue  # it was replaced under our hands
            raise
        # Config, index and shards have to be of one save.
        current = not isinstance(opened, SafetensorsCheckpoint) or opened.is_current()
        if current and configs == _stamps(folder / CONFIG, folder / GENERATION_CONFIG):
            return opened
        opened.close()
    raise CheckpointError(f"{where}: its files keep changing while it is opened; try again later")


def _open_file(file: Path, *, mmap: bool) -> Checkpoint:
    if file.name.endswith(SUFFIX):
        return SafetensorsCheckpoint.open(file, mmap=mmap)
    if is_pickle(file.name):
        raise pickle_refused(str(file))
    if is_index(file.name):
        return SafetensorsCheckpoint.open_index(file.parent, file.name, mmap=mmap)
    suffix = file.suffix.removeprefix(".")
    if not suffix:
        raise CheckpointError(
            f"{file}: expected a file with the suffix {', '.join((SUFFIX, *known_suffixes()))}; "
            f"if it is safetensors, rename it"
        )
    return format_reader(suffix).open(file, mmap=mmap)


def _open_folder(
    folder: Path, variant: str | None, base_name: str | None, *, mmap: bool
) -> Checkpoint:
    names = [entry.name for entry in folder.iterdir()]
    located = locate_weights(names, str(folder), variant=variant, base_name=base_name)
    if located is not None and is_index(located):
        return SafetensorsCheckpoint.open_index(folder, located, mmap=mmap)
    if located is not None:
        return SafetensorsCheckpoint.open_files(folder, [located], mmap=mmap)
    others = models_in(names)
    if len(others) == 1:
        return _open_file(folder / others[0], mmap=mmap)
    if others:
        raise several(others, str(folder))
    raise no_weights(names, str(folder))


def _stamps(*paths: Path) -> list[tuple[int, int, int] | None]:
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found
