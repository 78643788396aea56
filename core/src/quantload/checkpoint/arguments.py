"""Arguments of saving, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from quantload.checkpoint.paths import show
from quantload.errors import CheckpointError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS.update({"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40})


def parse_size(size: int | str) -> int:
    """A number of bytes from 5000000000, "5GB" (10^9) or "4GiB" (2^30).

    Raises:
        CheckpointError: it is neither, or not above zero.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    text = size.strip().upper() if isinstance(size, str) else ""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]I?B)?", text)
    if match is None or not (count := int(float(match[1]) * _UNITS[match[2] or ""])):
        raise CheckpointError(
            f"max_shard_size: expected a number of bytes above zero or a text such as '5GB', "
            f"found {size!r}"
        )
    return count


def text_pairs(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a safetensors header, once it is known to be text.

    Raises:
        CheckpointError: a key or value is not.
    """
    for key, value in cast("Mapping[object, object]", metadata).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise CheckpointError(f"metadata: expected text for {show(key)}, found {show(value)}")
    return dict(metadata)
