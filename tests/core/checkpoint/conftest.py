from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def raw_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a safetensors file from a header that need not be right."""

    def write(
        header: dict[str, Any] | str | bytes,
        data: bytes = b"",
        name: str = "model.safetensors",
        length: int | None = None,
    ) -> Path:
        text = json.dumps(header) if isinstance(header, dict) else header
        raw = text.encode() if isinstance(text, str) else text
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = len(raw) if length is None else length
        path.write_bytes(size.to_bytes(8, "little") + raw + data)
        return path

    return write


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture(name="entry")
def _entry() -> Callable[..., dict[str, Any]]:
    """The header entry of one tensor."""
    return entry


@pytest.fixture
def open_files() -> Callable[[], int]:
    """Counts the files that this process has open."""
    return lambda: sum(1 for _ in Path("/proc/self/fd").iterdir())
