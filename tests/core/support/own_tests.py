"""Packages with tests of their own, run as their authors run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_tests(project: Path, *arguments: str, python: object = sys.executable, **env: str) -> str:
    """Run the tests of a package in a process of their own; an error shows what they wrote."""
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command,
        cwd=project,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    return done.stdout
