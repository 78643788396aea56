"""The checkpoint an example works on: its first argument, or the demo model of the workspace."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The bars that transformers draws are for a terminal; it reads this when it is imported.
if not sys.stderr.isatty():
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

ROOT = Path(__file__).resolve().parents[1]
DEMO_MODEL = ROOT / "tests" / "data" / "stdlib-llama-4m"
PROMPT = 'def read_json(path):\n    """'


def checkpoint() -> str:
    """A folder, or a name on the hub."""
    return sys.argv[1] if len(sys.argv) > 1 else str(DEMO_MODEL)


@contextmanager
def packed_checkpoint(config: Mapping[str, Any], name: str = "") -> Iterator[str]:
    """The first argument; without one, the demo model packed and saved in a temporary folder.

    Args:
        config: how to pack it.
        name: of the file to save it as, where the format is one file.
    """
    if len(sys.argv) > 1:
        yield sys.argv[1]
        return
    import quantload

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (name or "packed")
        quantload.save_model(quantload.load_model(DEMO_MODEL, quantization_config=config), path)
        yield str(path)


def output(name: str) -> Path:
    """Where a file that an example makes goes: the second argument, or `out/` of the workspace."""
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "out"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
