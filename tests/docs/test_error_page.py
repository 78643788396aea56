"""The page of errors and variables names every one that there is."""

from __future__ import annotations

import re
from pathlib import Path

import quantload.errors
from quantload.env import TABLE

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")
BASES = {"QuantloadError", "PluginError"}


def test_every_public_error_has_a_line() -> None:
    public = {name for name in vars(quantload.errors) if name.endswith("Error")} - BASES
    assert set(re.findall(r"^\| `(\w+Error)` \|", PAGE, re.MULTILINE)) == public


def test_every_variable_has_a_line_that_says_what_it_does() -> None:
    lines = dict(re.findall(r"^\| `(QUANTLOAD_\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    wanted = {variable.name: variable.meaning for variable in TABLE}
    assert {name: text.replace("`", "") for name, text in lines.items()} == {
        name: text.replace("`", "") for name, text in wanted.items()
    }
