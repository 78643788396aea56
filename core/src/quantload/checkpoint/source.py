"""`resolve_source`: from what a user calls a checkpoint to a path on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from quantload.checkpoint.choosing import find_file, split_tag
from quantload.checkpoint.hub import fetch
from quantload.errors import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)


def resolve_source(
    checkpoint: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    variant: str | None = None,
    base_name: str | None = None,
    files: Sequence[str] | None = None,
    file: str | None = None,
    weights: bool = True,
    code: bool = False,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    allow_patterns: Sequence[str] | None = None,
) -> Path:
    """The local file or folder of a checkpoint.

    A path that exists is itself. `"place:Q4_K_M"` is the one file of a folder or
    repository whose name ends in that tag, where there are several of a format that a
    plugin reads. A string of the form `name` or `owner/name` is otherwise an id on the
    hub: its configs, tokenizer files and those weights that `open_checkpoint` would open
    are fetched into the hub cache, and nothing else.
    `HF_HUB_OFFLINE` and the other variables of `huggingface_hub` apply.

    Args:
        checkpoint: a file, a folder, or a hub id.
        revision: branch, tag or commit on the hub.
        subfolder: the folder inside it that holds the checkpoint.
        variant: see `open_checkpoint`.
        base_name: see `open_checkpoint`.
        files: see `open_checkpoint`; any other file of the repository may be named, too.
        file: the one file of the folder or repository that is the checkpoint, where each
            is one of its own (`.gguf`); the first part of a split one.
        weights: False fetches only the files beside the weights.
        code: Python files too (`trust_remote_code`).
        token: for the hub; True takes the stored one.
        cache_dir: another place than the hub's usual cache.
        local_files_only: take what is in the cache, ask nobody.
        allow_patterns: further files to fetch, as `huggingface_hub` matches them.

    Raises:
        CheckpointError: it is neither on this machine nor on the hub, or cannot be
            fetched; what the hub's library said is chained.
    """
    name, tag = os.fspath(checkpoint), None
    if isinstance(checkpoint, str) and file is None:
        name, tag = split_tag(checkpoint)
    local = Path(name).expanduser()
    if name and local.exists():
        return _chosen(_subfolder(local, subfolder), file, tag)
    if not isinstance(checkpoint, str) or not _could_be_hub_id(name):
        raise CheckpointError(
            f"{name!r}: no such file or folder"
            + ("" if isinstance(checkpoint, str) else "; a hub id is given as a str, not a path")
        )
    snapshot = fetch(
        name,
        revision=revision,
        subfolder=subfolder,
        variant=variant,
        base_name=base_name,
        files=files,
        file=file,
        tag=tag,
        weights=weights,
        code=code,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        allow_patterns=allow_patterns,
    )
    found = _subfolder(snapshot, subfolder)
    return _chosen(found, file, tag) if weights else found


def _could_be_hub_id(name: str) -> bool:
    # "model.safetensors" has the form of an id, and is a file that is not there.
    looks_like_file = Path(name).suffix.lower() in (".safetensors", ".gguf", ".json", ".bin", ".pt")
    return bool(_HUB_ID.fullmatch(name)) and not looks_like_file


def _chosen(path: Path, file: str | None, tag: str | None) -> Path:
    if not file and not tag:
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: is a file; there is nothing to choose in it")
    return find_file(path, file=file, tag=tag)


def _subfolder(path: Path, subfolder: str | None) -> Path:
    if not subfolder:
        return path
    found = path / subfolder
    if Path(subfolder).is_absolute() or ".." in Path(subfolder).parts or not found.is_dir():
        raise CheckpointError(f"{path}: no subfolder {subfolder!r} in it")
    return found
