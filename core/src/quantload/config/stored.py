"""Where a checkpoint keeps its quantization config."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantload.checkpoint.jsonfile import read_json
from quantload.checkpoint.replace import recover
from quantload.errors import CheckpointError, PluginConflictError, UnknownMethodError
from quantload.registry import registry
from quantload.registry.known import known
from quantload.registry.policy import allowed
from quantload.registry.records import CONFIG_FILES, method_key

_KEYS = ("quantization_config", "compression_config")
_DEEPEST = 3


def stored_config(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The quantization config of a checkpoint folder, None where it is not quantized.

    `config.json` comes first (its `quantization_config`, or that of a part such as
    `text_config`); then the files of their own that plugins name in the entry-point
    group `quantload.config_files`, in alphabetical order.

    Raises:
        CheckpointError: a file is not a JSON object, or its parts disagree.
        UnknownMethodError: there is a file that belongs to a plugin that is not installed.
        PluginConflictError: a file that names no method belongs to several plugins.
    """
    root = Path(folder)
    recover(root)  # in the middle of an interrupted save there is no config.json
    config = _read(root / "config.json")
    if config is not None:
        found = config_in(config, str(root / "config.json"))
        if found is not None:
            return found
    owners: dict[str, set[str]] = {}
    for record in registry.records(CONFIG_FILES):
        if not record.problem and allowed(record):
            owners.setdefault(record.name, set()).add(record.value)
    absent = known().get(CONFIG_FILES, {})
    for name in sorted({*owners, *absent}):
        own = _read(root / name)
        if own is None:
            continue
        if name not in owners and own.get("quant_method") is None:
            raise UnknownMethodError(
                f"{root / name} belongs to {absent[name]}, which is not installed: "
                f"pip install {absent[name]}"
            )
        if own.get("quant_method") is None:
            own["quant_method"] = _owner(root / name, own, owners[name])
        return own
    return None


def _owner(where: Path, own: dict[str, Any], methods: set[str]) -> str:
    """Which of the methods that claim a file it is for."""
    by_keys = registry.method_for_keys(own) if len(methods) > 1 else None
    chosen = {m for m in methods if by_keys is None or method_key(m) == method_key(by_keys)}
    if len(chosen) != 1:
        raise PluginConflictError(
            f"{where} names no quant_method and belongs to several methods: "
            f"{', '.join(sorted(methods))}; add quant_method to it"
        )
    return chosen.pop()


def config_in(config: dict[str, Any], where: str = "config.json") -> dict[str, Any] | None:
    """The quantization config inside the dict of a `config.json`.

    Args:
        config: the whole dict.
        where: what to call it in an error.

    Raises:
        CheckpointError: it is no object, or parts of the model have different ones.
    """
    for depth in range(_DEEPEST + 1):
        found = list(_at_depth(config, where, depth))
        if found:
            first = found[0][1]
            for path, other in found[1:]:
                if other != first:
                    raise CheckpointError(
                        f"{where}: {found[0][0]} and {path} hold different quantization configs; "
                        f"one model has one, so pass the right one as quantization_config"
                    )
            return dict(first)
    return None


def _at_depth(
    part: dict[str, Any], where: str, depth: int, path: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The quantization configs exactly `depth` levels of `*_config` objects down."""
    if depth:
        for key, value in part.items():
            if key.endswith("_config") and key not in _KEYS and isinstance(value, dict):
                yield from _at_depth(value, where, depth - 1, f"{path}{key}.")
        return
    for key in _KEYS:
        value = part.get(key)
        if value is not None and not isinstance(value, dict):
            raise CheckpointError(
                f"{where}: {path}{key} should be an object, found {type(value).__name__}"
            )
        if value:
            yield f"{path}{key}", value
            return


def _read(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None
