"""A save that is killed, interrupted or refused at any step leaves the old or the new, whole."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

DRIVER = Path(__file__).parent / "kill_driver.py"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, list[str] | str]:
    """What came of every task of the driver, step by step; a text where an assertion failed.

    The driver asserts after each step that the folder holds one of the two checkpoints,
    tensor for tensor, all files of the user, and nothing else.
    """
    base = tmp_path_factory.mktemp("kill") / "base"
    run = subprocess.run(
        [sys.executable, DRIVER, base], capture_output=True, text=True, timeout=280
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found: dict[str, list[str] | str] = json.loads(run.stdout)
    return found


def phases(outcome: list[str] | str) -> list[str]:
    assert isinstance(outcome, list), outcome
    return [phase for phase, _ in groupby(outcome)]


@pytest.mark.parametrize(
    "task",
    [
        "kill, replace by 2 files, open",
        "kill, replace by 1 file, open",
        "kill, replace by 2 files, save",
    ],
)
def test_killed_at_every_step_of_replacing_a_folder(outcomes, task):
    # Old until the decision, for a moment without a config.json, then new: never mixed.
    assert phases(outcomes[task]) == ["old", "between", "new"]
    assert len(outcomes[task]) > 30


@pytest.mark.parametrize("task", ["kill, write anew, open", "kill, write anew, save"])
def test_killed_at_every_step_of_writing_a_new_folder(outcomes, task):
    assert phases(outcomes[task]) == ["absent", "new"]
    assert len(outcomes[task]) > 20


def test_killed_again_at_every_step_of_a_recovery(outcomes):
    assert len(phases(outcomes["kill the recovery"])) > 30


def test_killed_at_random_moments(outcomes):
    assert outcomes["kill at random"][0] == "new"
    assert set(phases(outcomes["kill at random"])) == {"old", "new"}


@pytest.mark.parametrize("kind", ["replace", "write anew"])
@pytest.mark.parametrize("how", ["interrupt", "full disk"])
def test_ctrl_c_and_a_failing_disk_at_every_step(outcomes, how, kind):
    found = phases(outcomes[f"{how}, {kind}"])
    assert found[0] == ("old" if kind == "replace" else "absent")
    assert found[-1] == "new"
