"""How the tests of the examples run one: as a reader would, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def shows(demo_model: Path, tmp_path: Path) -> Callable[[str, list[str]], Path]:
    """Runs a script and looks for patterns in what it prints; gives the folder of its files."""

    def check(script: str, wanted: list[str]) -> Path:
        here, out = tmp_path / "here", tmp_path / "out"
        here.mkdir()
        charts = [str(demo_model), str(out)] if "memory_footprints" in script else []
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / f"{script}.py"), *charts],
            cwd=here,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert not re.search(r"Warning|Traceback|\d+%\|", done.stderr), done.stderr[-4000:]
        for pattern in wanted:
            assert re.search(pattern, done.stdout), f"no {pattern!r} in:\n{done.stdout}"
        assert list(here.iterdir()) == [], "an example leaves nothing behind"
        return out

    return check
