"""Models in several files: finding all of them before any is believed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantload.errors import CheckpointError
from quantload_gguf.container.header import Header

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
MAX_PARTS = 10_000
_NAME = re.compile(r"(?P<base>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def parts_of(path: Path, header: Header) -> list[Path]:
    """The files of the model that `path` is one of, in order; only `path` where it is whole.

    Args:
        path: any one of them.
        header: its header.

    Raises:
        CheckpointError: a file is absent, or the name does not say which there are.
    """
    count = _number(path, header, COUNT, 1)
    if count <= 1:
        return [path]
    match = _NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != count or count > MAX_PARTS:
        raise CheckpointError(
            f"{path}: it is one of {count} files ({COUNT}), which are found by their names: "
            f"expected NAME-00001-of-{count:05d}.gguf; give the files back the names they had"
        )
    names = [part_name(match["base"], number, count) for number in range(count)]
    absent = [name for name in names if not (path.parent / name).is_file()]
    if absent:
        shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if absent[5:] else "")
        raise CheckpointError(
            f"{path.parent}: the model is in {count} files and {len(absent)} of them are absent: "
            f"{shown}; download them into the same folder"
        )
    return [path.parent / name for name in names]


def part_name(name: str, number: int, count: int) -> str:
    """The name of a part of a model.

    Args:
        name: of the model's file if it were one.
        number: of the part, from 0.
        count: of the parts.
    """
    stem = base_name(name)
    if stem.lower().endswith(".gguf"):
        stem = stem[: -len(".gguf")]
    return f"{stem}-{number + 1:05d}-of-{count:05d}.gguf"


def base_name(name: str) -> str:
    """The name of the model's file if it were one: without the number of a part."""
    match = _NAME.fullmatch(name)
    return f"{match['base']}.gguf" if match else name


def check_parts(paths: Sequence[Path], headers: Sequence[Header]) -> None:
    """The files are parts of one model, each in its place, and hold all of its tensors.

    Raises:
        CheckpointError: they are not.
    """
    if len(paths) == 1:
        return
    for place, (path, header) in enumerate(zip(paths, headers, strict=True)):
        number, count = _number(path, header, NUMBER, None), _number(path, header, COUNT, None)
        if (number, count) != (place, len(paths)):
            raise CheckpointError(
                f"{path}: expected part {place} of {len(paths)} ({NUMBER}, {COUNT}), found part "
                f"{number} of {count}; files of different models are mixed"
            )
    seen: dict[str, Path] = {}
    for path, header in zip(paths, headers, strict=True):
        for name in header.tensors:
            if name in seen:
                raise CheckpointError(f"{path}: tensor {name!r} is in {seen[name]} as well")
            seen[name] = path
    expected = _number(paths[0], headers[0], TENSORS, len(seen))
    if expected != len(seen):
        raise CheckpointError(
            f"{paths[0]}: expected {expected} tensors in {len(paths)} files ({TENSORS}), found "
            f"{len(seen)}; files of different models are mixed"
        )


def _number(path: Path, header: Header, key: str, default: Any) -> Any:
    field = header.fields.get(key)
    if field is None:
        return default
    if isinstance(field.value, int) and not isinstance(field.value, bool) and field.value >= 0:
        return field.value
    raise CheckpointError(f"{path}: {key} is {field.value!r}, expected a whole number")
