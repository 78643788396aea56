"""The table of methods in the README is what the installed plugins say of themselves."""

from __future__ import annotations

from pathlib import Path

import method_table

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_is_up_to_date() -> None:
    _, table, _ = method_table.split(method_table.README.read_text(encoding="utf-8"))
    assert table == method_table.render(), "run `python scripts/method_table.py --write`"


def test_every_plugin_of_the_workspace_with_a_method_has_a_row_and_a_page() -> None:
    rows = method_table.render()
    for file in ROOT.glob("plugins/*/pyproject.toml"):
        if '"quantload.quantizers"' in file.read_text(encoding="utf-8"):
            assert f"`quantload-{file.parent.name}`" in rows
            assert (ROOT / "docs" / "methods" / f"{file.parent.name}.md").is_file()
