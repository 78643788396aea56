"""Questions that take a process of their own: what is imported along with something."""

from __future__ import annotations

import json
import os
import subprocess
import sys

_TIMEOUT = 120


def imported_after(code: str, *modules: str) -> set[str]:
    """Which of `modules` have been imported once `code` has run in a fresh process.

    The child has this process's `sys.path` and finds the same packages.

    Raises:
        AssertionError: the code fails there; with what it wrote.
    """
    tail = f"\nimport sys\nprint([m for m in {list(modules)!r} if m in sys.modules])"
    head = f"import sys\nsys.path[:] = {json.dumps(sys.path)}\n"
    done = subprocess.run(  # noqa: S603  this interpreter, with code of the suites
        [sys.executable, "-c", head + code + tail],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, f"this failed in a fresh process:\n{code}\n{done.stderr}"
    return set(json.loads(done.stdout.strip().splitlines()[-1].replace("'", '"')))
