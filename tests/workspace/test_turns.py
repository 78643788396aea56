"""Benchmarks whose cases take turns: one that fails, or hangs, costs the others nothing."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
from _turns import take_turns

CHILD = """
    import sys, time
    sys.path.insert(0, {path!r})
    from _turns import answer, wait_for_turn

    case = sys.argv[1]
    if case == "crashes":
        raise RuntimeError("no such device")
    if case == "never ready":
        time.sleep(60)
    wait_for_turn()
    print("something else")
    answer({{"case": case, "step": 1}})
    if case == "fails later":
        raise RuntimeError("out of memory")
    if case == "hangs":
        time.sleep(60)
    answer({{"case": case, "step": 2}})
"""
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "child.py"
    path.write_text(textwrap.dedent(CHILD).format(path=str(BENCHMARKS)))
    return path


def test_every_case_gives_what_it_can(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("_turns.PATIENCE", 0.1)
    cases = ["first", "crashes", "never ready", "fails later", "hangs", "last"]
    turns = take_turns(lambda case: [sys.executable, str(script), case], cases, ready=4, turn=1)
    found = {case: (figures, said) for case, figures, said in turns}
    steps = {case: figures and figures["step"] for case, (figures, _) in found.items()}
    assert steps == {
        "first": 2, "crashes": None, "never ready": None, "fails later": 1, "hangs": 1, "last": 2,
    }  # fmt: skip
    said = {case: words for case, (_, words) in found.items()}
    assert said["first"].startswith("exit 0")
    assert "no such device" in said["crashes"]
    assert said["never ready"].startswith("not ready in time")
    assert "out of memory" in said["fails later"]
    assert not said["hangs"].startswith("exit 0")
