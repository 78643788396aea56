"""Fetching from the hub what a checkpoint needs, and no more; imports `huggingface_hub`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from quantload.checkpoint.choosing import choose_file, models_in, parts_of, several
from quantload.checkpoint.companions import companion_names
from quantload.checkpoint.index import read_index
from quantload.checkpoint.locate import is_index, locate_weights, no_weights
from quantload.checkpoint.paths import plain_name
from quantload.errors import CheckpointError


def fetch(
    repo_id: str,
    *,
    revision: str | None,
    subfolder: str | None,
    variant: str | None,
    base_name: str | None,
    files: Sequence[str] | None,
    file: str | None,
    tag: str | None,
    weights: bool,
    code: bool,
    token: str | bool | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
    allow_patterns: Sequence[str] | None,
) -> Path:
    """The snapshot folder of a repository in the cache; see `resolve_source`.

    Where the hub cannot be reached, what the cache has is taken.

    Raises:
        CheckpointError: it cannot be had.
    """
    import huggingface_hub
    from huggingface_hub import errors

    if local_files_only:
        return _cached(repo_id, revision, cache_dir)
    place: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
    try:
        info = huggingface_hub.HfApi(token=token).model_info(repo_id, revision=revision)
        prefix = f"{subfolder.strip('/')}/" if subfolder else ""
        names = [file.rfilename for file in info.siblings or ()]
        here = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        wanted = companion_names(here, code=code)
        if files is not None:
            wanted += [plain_name(name, f"{repo_id}: files") for name in files]
        elif file or tag:
            chosen = choose_file(here, repo_id, file=file, tag=tag)
            wanted += parts_of(chosen, here) if weights else []
        elif weights:
            located = _located(here, repo_id, variant, base_name)
            wanted += parts_of(located, here) if located in models_in(here) else [located]
            if is_index(located):
                index = huggingface_hub.hf_hub_download(repo_id, prefix + located, **place)
                wanted += sorted(set(read_index(Path(index)).values()))
        patterns = allow_patterns or ()
        wanted += [name for name in here if any(fnmatchcase(name, p) for p in patterns)]
        absent = [name for name in wanted if name not in here]
        if absent:
            raise CheckpointError(f"{repo_id}: no file {', '.join(absent)} in the repository")
        exact = [_literal(prefix + name) for name in dict.fromkeys(wanted)]
        return Path(huggingface_hub.snapshot_download(repo_id, allow_patterns=exact, **place))
    except CheckpointError:
        raise
    except (errors.HTTPError, errors.EntryNotFoundError, OSError, ValueError) as error:
        definite = isinstance(
            error, (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, ValueError)
        )
        if not definite:
            try:
                return _cached(repo_id, revision, cache_dir)
            except CheckpointError:
                pass
        raise CheckpointError(_explanation(repo_id, revision, error)) from error


def _located(here: Sequence[str], repo_id: str, variant: str | None, base: str | None) -> str:
    names = [name for name in here if "/" not in name]
    located = locate_weights(names, repo_id, variant=variant, base_name=base)
    if located is not None:
        return located
    models = models_in(names) or models_in(here)
    if len(models) > 1:
        raise several(models, repo_id)
    if models and models[0] in names:
        return models[0]
    raise no_weights(names, repo_id)


def _literal(name: str) -> str:
    """A pattern that matches this name alone."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _cached(repo_id: str, revision: str | None, cache_dir: str | os.PathLike[str] | None) -> Path:
    """The snapshot that the cache has; whether it is complete shows when it is opened."""
    from huggingface_hub import constants

    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    commit = revision or constants.DEFAULT_REVISION
    snapshot = None
    if not any(part in ("", ".", "..") for part in commit.split("/")):
        reference = repository / "refs" / commit
        if reference.is_file():
            commit = reference.read_text(encoding="utf-8").strip()
        snapshot = repository / "snapshots" / commit
    if snapshot is None or not snapshot.is_dir():
        raise CheckpointError(
            f"{repo_id!r} is neither a file or folder here nor in the hub cache {cache}"
            f"{f' at revision {revision!r}' if revision else ''}; fetch it once while online, or "
            f"check the name"
        )
    return snapshot


def _explanation(repo_id: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import errors

    what = f"{repo_id!r} is no file or folder here, and on the hub"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{what} it is gated: accept its terms at https://huggingface.co/{repo_id} and pass "
            f"token= or run `hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{what} there is no such repository; if it is private, pass token="
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{what} it has no revision {revision!r}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{what} it cannot be looked for: HF_HUB_OFFLINE is set, and the cache has it not"
    first = str(error).strip().split("\n")[0]
    return f"{what} it could not be fetched ({type(error).__name__}: {first})"
