"""Plugins that were built for an earlier core run on this one, unchanged."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "core" / "support"))

from own_tests import run_tests  # noqa: E402  the support comes first

WHEELS = sorted((ROOT / "tests" / "data" / "plugins").glob("*.whl"))
BOUND = re.compile(r"(?m)^(Requires-Dist: quantload)<[\d.]+,(>=[\d.]+)$")


def test_there_is_one() -> None:
    assert WHEELS


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda path: path.stem)
def test_its_code_passes_the_suites_of_this_core(wheel: Path, tmp_path: Path) -> None:
    """An unpacked wheel is an installed one, as far as discovery can tell.

    Its upper bound on the core would have it refused by the next minor version, and is
    taken off: what is held here is that its code, and its descriptor's `api`, still do.
    """
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    (metadata,) = tmp_path.glob("*.dist-info/METADATA")
    text, count = BOUND.subn(r"\1\2", metadata.read_text())
    assert count == 1
    metadata.write_text(text)
    project = ROOT / "examples" / "minimal_plugin"
    # compiling takes seconds, and is held by the tests of the example itself
    said = run_tests(project, "-k", "not compiled", PYTHONPATH=str(tmp_path))
    assert re.search(r"\d{2,} passed", said)
