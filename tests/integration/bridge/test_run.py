"""`quantload run`: a script finds the bridge enabled, and notices nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import helper  # beside the script
from transformers.quantizers import auto
print(sys.argv[1:], __name__, helper.WORD)
print({n for n, c in auto.AUTO_QUANTIZER_MAPPING.items() if c.__module__.startswith("quantload.")})
sys.exit(3)
"""


def _run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quantload", "run", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("WORD = 'found'\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


def test_a_script_runs_with_the_bridge_enabled(script: Path) -> None:
    done = _run("--only", "gptq", "-m", script.stem, "--keep", "x", "-m", cwd=script.parent)
    assert done.returncode == 3, done.stderr
    told = done.stdout.splitlines()
    assert told[0] == "['--keep', 'x', '-m'] __main__ found"
    assert "'gptq'" in told[1]
    assert "awq" not in told[1]


def test_what_a_script_raises_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("raise EOFError('the very one')\n")
    done = _run("fails.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("EOFError: the very one")


def test_an_absent_script_is_said_in_one_line(tmp_path: Path) -> None:
    absent = _run("absent.py", cwd=tmp_path)
    assert (absent.returncode, absent.stderr) == (1, "error: absent.py: no such script\n")
