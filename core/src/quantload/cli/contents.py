"""What is in a checkpoint, here or on the hub, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantload.checkpoint import open_checkpoint, resolve_source
from quantload.checkpoint.choosing import split_tag
from quantload.config.stored import config_in, stored_config
from quantload.errors import CheckpointError

if TYPE_CHECKING:
    from quantload.checkpoint import Checkpoint
    from quantload.quantizers.spec import TensorHeader


@dataclass(frozen=True)
class Contents:
    """A checkpoint as its headers show it.

    Attributes:
        source: the path, or the name on the hub.
        format: suffix of its files.
        files: name -> bytes.
        headers: tensor -> header.
        config: the dict of `config.json`; {} where there is none.
        quantization: the quantization config, None where there is none.
        opened: the open checkpoint; None where its files are on the hub only.
    """

    source: str
    format: str
    files: dict[str, int]
    headers: Mapping[str, TensorHeader]
    config: dict[str, Any] = field(default_factory=dict)
    quantization: dict[str, Any] | None = None
    opened: Checkpoint | None = None


def contents_of(
    source: str, revision: str | None, subfolder: str | None, variant: str | None
) -> Contents:
    """Look at a checkpoint; of one on the hub that is not in the cache, headers are fetched.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = Path(source).expanduser()
    if path.exists():
        return _local(source, path / subfolder if subfolder else path, variant)
    place, tag = split_tag(source)
    if tag is not None:
        # One file of a folder, or of what is in the cache: it is not fetched to be looked at.
        offline = not Path(place).expanduser().exists()
        found = resolve_source(
            source, revision=revision, subfolder=subfolder, local_files_only=offline
        )
        return _local(source, found, variant)
    folder = resolve_source(source, revision=revision, subfolder=subfolder, weights=False)
    try:
        return _local(source, folder, variant)
    except CheckpointError:
        from quantload.cli.remote import remote_contents

        there = remote_contents(source, revision, subfolder, variant)
        if there is None:
            raise
        files, headers = there
        config, quantization = _configs(folder, None)
        return Contents(source, "safetensors", files, headers, config, quantization)


def _local(source: str, path: Path, variant: str | None) -> Contents:
    opened = open_checkpoint(path, variant=variant)
    files = {file.name: file.stat().st_size for file in opened.files}
    suffix = opened.files[0].suffix.removeprefix(".") if opened.files else ""
    config, quantization = _configs(opened.folder, opened.config())
    return Contents(source, suffix, files, opened.tensors, config, quantization, opened)


def _configs(
    folder: Path, config: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    from quantload.checkpoint import read_json

    where = folder / "config.json"
    if config is None:
        config = read_json(where) if where.is_file() else {}
    return config, config_in(config, str(where)) or stored_config(folder)
