"""Where a checkpoint keeps its quantization config."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from quantload.errors import CheckpointError
from quantload.registry import registry


def stored_config(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The quantization config of a checkpoint folder, None where it is not quantized.

    `config.json` comes first (its `quantization_config`, or that of its text
    part); then the files of their own that plugins name in the entry-point group
    `quantload.config_files`, in alphabetical order.

    Raises:
        CheckpointError: a file is not a JSON object.
    """
    root = Path(folder)
    config = _read(root / "config.json")
    if config is not None:
        found = config_in(config)
        if found is not None:
            return found
    for record in registry.records("quantload.config_files"):
        own = _read(root / record.name) if Path(record.name).name == record.name else None
        if own is not None:
            return {"quant_method": record.value, **own}
    return None


def config_in(config: dict[str, Any]) -> dict[str, Any] | None:
    """The quantization config inside the dict of a `config.json`."""
    for part in (config, config.get("text_config"), config.get("thinker_config")):
        if isinstance(part, dict):
            for key in ("quantization_config", "compression_config"):
                if isinstance(part.get(key), dict) and part[key]:
                    return dict(part[key])
    return None


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data
