"""The checkpoint an example works on: its first argument, or the demo model of the workspace."""

from __future__ import annotations

import sys
from pathlib import Path

DEMO_MODEL = Path(__file__).resolve().parents[1] / "tests" / "data" / "stdlib-llama-4m"
PROMPT = 'def read_json(path):\n    """'


def checkpoint() -> str:
    """A folder, or a name on the hub."""
    return sys.argv[1] if len(sys.argv) > 1 else str(DEMO_MODEL)
