"""`quantload run`: a script finds the bridge enabled, and notices nothing else."""

from __future__ import annotations

import io
import multiprocessing
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantload import QuantloadError, enable_transformers
from quantload.cli import program
from quantload.cli.program import Program

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


CHILDREN = """
import multiprocessing
import subprocess
import sys
from transformers.quantizers import auto

def ours():
    kinds = auto.AUTO_QUANTIZER_MAPPING.items()
    return sorted(n for n, c in kinds if c.__module__.startswith("quantload."))

class Kept:
    pass

def send(queue):
    queue.put((ours(), Kept()))

if __name__ == "__main__":
    mine = ours()
    for way in ("spawn", "fork"):
        context = multiprocessing.get_context(way)
        queue = context.Queue()
        child = context.Process(target=send, args=(queue,))
        child.start()
        theirs, kept = queue.get(timeout=60)
        child.join()
        print(way, theirs == mine, "gptq" in theirs, "awq" in theirs, type(kept) is Kept)
"""


def test_processes_of_multiprocessing_inherit_the_bridge(tmp_path: Path) -> None:
    (tmp_path / "children.py").write_text(CHILDREN)
    done = _run("--only", "gptq", "children.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["spawn True True False True", "fork True True False True"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs may run in this process: what they leave behind is taken away."""
    enabled = []

    def enable(*arguments: Any) -> Any:
        enabled.append(enable_transformers(*arguments))
        return enabled[-1]

    monkeypatch.setattr(program, "enable_transformers", enable)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["quantload"])
    for name in ("__main__", "__mp_main__"):
        monkeypatch.setitem(sys.modules, name, sys.modules["__main__"])
    yield
    multiprocessing.current_process()._config.pop("quantload", None)
    for bridge in reversed(enabled):
        bridge.undo()


PLACES = """
import sys
print(__name__, __package__, sys.argv, sys.path[0], globals().get("__file__"))
"""


def test_a_program_finds_itself_where_python_puts_it(
    here: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for file in (package / "__main__.py", package / "part.py", tmp_path / "alone.py"):
        file.write_text(PLACES)
    monkeypatch.chdir(tmp_path)
    for words in (["alone.py", "-x"], ["package", "y"], ["-m", "package"], ["-m", "package.part"]):
        python = [sys.executable, *words]
        done = subprocess.run(python, capture_output=True, text=True, check=True)
        module = words[0] == "-m"
        path, *rest = words[1:] if module else words
        Program(path, rest, module=module).start()
        assert capsys.readouterr().out == done.stdout


def test_standard_input_is_a_program(
    here: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"print(__name__, 6 * 7)")))
    Program("-", []).start()
    assert capsys.readouterr().out == "__main__ 42\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "no_such_module"], "no module named no_such_module"),
        (["-m", "json.no_such_part"], "no module named json.no_such_part"),
        (["-m", "xml"], "no module named xml.__main__"),
        (["-m", "sys"], "no module named sys"),  # built in: no code
        (["empty"], "there is no __main__.py in it"),
        (["--only", "nonsense", "empty"], "nonsense"),
    ],
)
def test_what_cannot_run_is_said(
    here: None, words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    only = [words[1]] if words[0] == "--only" else None
    with pytest.raises(QuantloadError, match=told):
        Program(words[-1], [], module=words[0] == "-m", only=only)


def test_a_zip_file_is_a_program(
    here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "program.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", "print(__name__, 6 * 7)")
    Program(str(path), []).start()
    assert capsys.readouterr().out == "__main__ 42\n"
