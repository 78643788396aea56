"""Reading the small JSON files of a checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from quantload.errors import CheckpointError

MAX_JSON_BYTES = 64 * 1024 * 1024
"""The largest file that is read whole as text; real index files are tenths of that."""


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: the file is absent, too large, not UTF-8, not JSON, or
            holds something other than an object.
    """
    where = Path(path)
    return parse_json(read_bytes(where), where)


def read_bytes(where: Path) -> bytes:
    """The bytes of a small file.

    Raises:
        CheckpointError: it is absent, too large, or cannot be read.
    """
    try:
        size = where.stat().st_size
        if size > MAX_JSON_BYTES:
            raise CheckpointError(
                f"{where}: expected a file of at most {MAX_JSON_BYTES} bytes, found {size}"
            )
        return where.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{where}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be read ({error.strerror})") from error


def parse_json(raw: bytes, where: Path) -> dict[str, Any]:
    """The object in the text of a JSON file; see `read_json`."""
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{where}: expected UTF-8 text, found byte 0x{raw[error.start]:02x} at {error.start}"
        ) from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{where}: not valid JSON: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not a usable JSON file: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value
