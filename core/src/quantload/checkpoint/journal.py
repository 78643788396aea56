"""The journal of a folder that is being replaced: what is to happen, and doing it.

Every step can be done twice, so that whoever finds a journal can finish the work.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from quantload.checkpoint.jsonfile import read_json
from quantload.checkpoint.paths import plain_name, show
from quantload.errors import CheckpointError

logger = logging.getLogger(__name__)

JOURNAL = "journal.json"
NEW = "new"
_VERSION = 1


def write_journal(
    work: Path, target: Path, install: Sequence[str], remove: Iterable[str], entries: Sequence[str]
) -> None:
    """Decide that the files in `work/new` replace those of `target`.

    Args:
        work: the work folder; `new` in it is complete.
        target: the folder that is replaced.
        install: names below `new`, in the order in which they are put in place.
        remove: names in `target` that go away.
        entries: those of the names that lead readers to the rest, last one first.

    Raises:
        CheckpointError: a folder or link is in the way of a file.
        OSError: the journal cannot be written.
    """
    gone = [name for name in remove if name not in install and _stamp(target / name)]
    for name in (*install, *gone):
        _parent(target, name, make=False)
        status = _lstat(target / name)
        if status is not None and stat.S_ISDIR(status.st_mode):
            raise CheckpointError(f"{target / name}: expected a file to replace, found a folder")
    affected = {*install, *gone}
    journal = {
        "version": _VERSION,
        "entries": [name for name in entries if name in affected],
        "remove": gone,
        "install": list(install),
        "old": {n: mark for n in sorted(affected) if (mark := _stamp(target / n)) is not None},
    }
    draft = work / f"{JOURNAL}.draft"
    with draft.open("w", encoding="utf-8") as file:
        json.dump(journal, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(work / JOURNAL)
    sync_folder(work)


def apply_journal(work: Path, target: Path) -> None:
    """Carry out the journal in `work`, or what is left of it, and remove it.

    If another program has put files of its own in place meanwhile, these are the
    latest and nothing is done.

    Raises:
        CheckpointError: the journal is not one of ours.
        OSError: a step failed; the journal stays and can be applied again.
    """
    journal = read_json(work / JOURNAL)
    where = f"{work / JOURNAL}"
    if journal.get("version") != _VERSION:
        raise CheckpointError(
            f"{where}: expected version {_VERSION}, found {show(journal.get('version'))}; "
            f"a newer quantload saved here, complete it with that one"
        )
    try:
        entries, remove, install = (
            [plain_name(name, where) for name in journal[key]]
            for key in ("entries", "remove", "install")
        )
        old = {name: list(mark) for name, mark in journal["old"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{where}: not a journal of a save ({error!r}); remove {work} if nobody is saving here"
        ) from error
    pending = [name for name in install if os.path.lexists(work / NEW / name)]
    if any(_stamp(target / name) not in (None, old.get(name)) for name in pending):
        logger.warning(
            "%s: a save was interrupted here, and another program has written since; "
            "what it wrote is kept and the interrupted save is dropped",
            target,
        )
    else:
        for name in dict.fromkeys((*entries, *remove)):
            goes = name in old and (name in pending or name in remove)
            if goes and _stamp(target / name) == old[name]:
                (target / name).unlink()
        for name in pending:
            _parent(target, name, make=True)
            (work / NEW / name).replace(target / name)
        for folder in {target, *((target / name).parent for name in install)}:
            sync_folder(folder)
    (work / JOURNAL).unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the system can do that."""
    if os.name != "nt":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _parent(target: Path, name: str, *, make: bool) -> None:
    """Refuse names that a link would lead out of `target`; make missing folders."""
    folder = target
    for part in name.split("/")[:-1]:
        folder = folder / part
        status = _lstat(folder)
        if status is None:
            if make:
                folder.mkdir()
        elif not stat.S_ISDIR(status.st_mode):
            raise CheckpointError(
                f"{folder}: expected a folder for {show(name)}, found a file or a link"
            )


def _stamp(path: Path) -> list[int] | None:
    """What tells a file from one that another program put in its place; None if absent."""
    status = _lstat(path)
    return None if status is None else [status.st_size, status.st_mtime_ns]


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
