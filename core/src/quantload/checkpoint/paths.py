"""Which files a checkpoint may name: plain relative ones that stay where they are."""

from __future__ import annotations

import os
import re
from pathlib import Path

from quantload.errors import CheckpointError

_DRIVE = re.compile(r"[A-Za-z]:")
_HUB_REPOSITORY = re.compile(r"(models|datasets|spaces|kernels)--.+")


def plain_name(name: object, where: str) -> str:
    """A file name from inside a checkpoint, once it is known to be harmless.

    Forward slashes into a subfolder are allowed.

    Args:
        name: what was found.
        where: the file and entry it was found in, for the message.

    Raises:
        CheckpointError: it is absolute, goes up, or is no name at all.
    """
    if isinstance(name, str) and name and "\0" not in name and "\\" not in name:
        parts = name.split("/")
        if not _DRIVE.match(name) and not any(part in ("", ".", "..") for part in parts):
            return name
    raise CheckpointError(
        f"{where}: expected the plain name of a file in the same folder, found {show(name)}; "
        f"names that are absolute or leave the folder are refused"
    )


def inside(folder: Path, name: str) -> Path:
    """The file `name` of a checkpoint folder, links followed.

    A link may lead elsewhere in the folder or, in a snapshot of the hub cache,
    to the `blobs/` of the same repository (every file of a snapshot is such a link).

    Raises:
        CheckpointError: it leads anywhere else, or in a circle.
    """
    root = folder.resolve()
    try:
        real = Path(os.path.realpath(root / name, strict=True))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder / name}: no such file; complete the checkpoint (download it again)"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{folder / name}: cannot be reached ({error.strerror})") from error
    blobs = _blobs(root)
    if real.is_relative_to(root) or (blobs is not None and real.is_relative_to(blobs)):
        return real
    raise CheckpointError(
        f"{folder / name}: a link that leaves the checkpoint folder, to {real}; links may only "
        f"lead inside the folder or into blobs/ of the same hub-cache repository. Copy the file "
        f"here, or open the folder or file it points to"
    )


def _blobs(folder: Path) -> Path | None:
    """The `blobs/` folder of the hub-cache repository whose snapshot `folder` is in."""
    for snapshot in (folder, *folder.parents):
        repository = snapshot.parent.parent
        if snapshot.parent.name == "snapshots" and _HUB_REPOSITORY.fullmatch(repository.name):
            return repository / "blobs"
    return None


def show(value: object, limit: int = 120) -> str:
    """`repr(value)` for a message, cut to a length that a screen can take."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
