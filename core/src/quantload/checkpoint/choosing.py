"""Which file of a folder or repository is meant, where each file is a model of its own.

Formats that plugins read (`.gguf`) come as several files in one place: the same model in
several precisions, each in one file or in numbered parts, at the top or in a
folder of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from quantload.checkpoint.formats import known_suffixes
from quantload.checkpoint.locate import PART
from quantload.checkpoint.paths import plain_name
from quantload.errors import CheckpointError

_TAGGED = re.compile(r"(?P<base>.+):(?P<tag>[A-Za-z0-9][\w.-]*)", re.ASCII)
_NO_MODEL = re.compile(r"(?:^|[-_./])(?:mmproj|imatrix)(?:[-_.]|$)", re.IGNORECASE)


def split_tag(name: str) -> tuple[str, str | None]:
    """`"owner/model:Q4_K_M"` is the place and the tag; other names have no tag."""
    match = _TAGGED.fullmatch(name)
    # "C:models" is a path, and so is whatever exists.
    if match is None or len(match["base"]) == 1 or os.path.lexists(Path(name).expanduser()):
        return name, None
    return match["base"], match["tag"]


def models_in(names: Collection[str]) -> list[str]:
    """The files that hold a model of their own, of split ones the first, sorted.

    Args:
        names: relative to the folder or repository, with forward slashes.
    """
    suffixes = known_suffixes()
    return sorted(
        name
        for name in names
        if name.lower().endswith(suffixes) and not _later(name) and not _NO_MODEL.search(name)
    )


def choose_file(names: Collection[str], where: str, *, file: str | None, tag: str | None) -> str:
    """The one file that is meant.

    Args:
        names: relative to the folder or repository, with forward slashes.
        where: the folder or repository, for messages.
        file: its name; any part of a split model.
        tag: what its name, without suffix and number of a part, has to end in or
            contain between separators: "Q4_K_M". Case does not count.

    Raises:
        CheckpointError: there is none, or several are meant.
    """
    models = models_in(names)
    if file is not None:
        if plain_name(file, f"{where}: file") not in names:
            raise CheckpointError(f"{where}: no file {file}; there are {_listed(models)}")
        return file
    wanted = str(tag)
    escaped = re.escape(wanted)
    for pattern in (rf"(?:.*[-_./])?{escaped}", rf"(?:.*[-./])?{escaped}[-./].*"):
        found = [n for n in models if re.fullmatch(pattern, _stem(n), re.IGNORECASE)]
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                f"{where}: {wanted!r} is the tag of several files: {_listed(found)}; name one: "
                f"gguf_file={found[0]!r}"
            )
    raise CheckpointError(f"{where}: no file with the tag {wanted!r}; there are {_listed(models)}")


def parts_of(name: str, names: Collection[str]) -> list[str]:
    """A file and, where it is one of several parts, those that are there.

    Args:
        name: of the file.
        names: all there are.
    """
    own = PART.fullmatch(name)
    if own is None:
        return [name]
    kin = (own["base"], own["count"], own["suffix"])
    return sorted(
        other
        for other in names
        if (m := PART.fullmatch(other)) and (m["base"], m["count"], m["suffix"]) == kin
    )


def find_file(folder: Path, *, file: str | None, tag: str | None) -> Path:
    """The file in a folder on this machine; see `choose_file`."""
    names = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name.lower().endswith(known_suffixes())
    ]
    return folder / choose_file(names, str(folder), file=file, tag=tag)


def several(models: Collection[str], where: str) -> CheckpointError:
    """The error where it is open which of several files is meant."""
    first = min(models)
    return CheckpointError(
        f"{where}: several files that could be the model: {_listed(sorted(models))}; choose one "
        f"with gguf_file={first!r}, or by the end of its name: '{where}:TAG'"
    )


def _later(name: str) -> bool:
    match = PART.fullmatch(name)
    return match is not None and int(match["number"]) > 1


def _stem(name: str) -> str:
    part = PART.fullmatch(name)
    return part["base"] if part else name.rpartition(".")[0]


def _listed(names: Collection[str], limit: int = 12) -> str:
    if not names:
        return "none"
    shown = ", ".join(list(names)[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
