"""The smallest plugin: as short as promised, as the README shows it, and complete."""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "core" / "support"))

import pytest  # noqa: E402  the support folder comes first
from own_tests import run_tests  # noqa: E402
from wheels import Environment, build  # noqa: E402

from quantload.testing import fake_distribution  # noqa: E402

PROJECT = ROOT / "examples" / "minimal_plugin"
SOURCES = sorted((PROJECT / "src").rglob("*.py"))


def test_the_method_is_30_lines_at_most() -> None:
    """All of it: imports, config, descriptor, weight and quantizer, docstrings too."""
    lines = [line for path in SOURCES for line in path.read_text().splitlines() if line.strip()]
    assert 10 < len(lines) <= 30


def test_the_readme_shows_this_code() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                source = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
                assert source in readme, f"README.md lacks {node.name} of {path.name}"


def test_it_passes_the_suites() -> None:
    """Those of weights but for `torch.compile`: test_published_plugins.py, with the same code."""
    points = {"rtn8": "quantload_rtn8.plugin:PLUGIN"}
    with fake_distribution("quantload-rtn8", version="0.1.0", quantizers=points) as fake:
        found = os.pathsep.join([str(fake.path), str(PROJECT / "src")])
        said = run_tests(PROJECT, "-k", "not TestWeight or compiled", PYTHONPATH=found)
    assert re.search(r"\d{2} passed", said)


@pytest.mark.wheels
def test_its_wheel_passes_them_where_it_is_installed(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env")
    environment.borrow()
    environment.install(build(ROOT / "core", tmp_path), build(PROJECT, tmp_path))
    said = run_tests(PROJECT, python=environment.python, PYTHONPATH="")
    assert re.search(r"\d{3} passed", said)
