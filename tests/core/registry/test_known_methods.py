"""The generated table of known distributions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quantload.registry.known import known
from quantload.registry.records import EXPORTS, GROUPS, QUANTIZERS, method_key

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "known_methods.py"

pytestmark = pytest.mark.skipif(
    not TOOL.exists(), reason="the workspace around the core is not here (an installed core)"
)


def test_the_table_is_up_to_date():
    done = subprocess.run(
        [sys.executable, TOOL, "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_table_that_is_out_of_date_is_noticed(tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "planned.toml").write_text("")
    plugin = tmp_path / "plugins" / "new"
    plugin.mkdir(parents=True)
    (plugin / "pyproject.toml").write_text(
        '[project]\nname = "quantload-new"\n'
        '[project.entry-points."quantload.quantizers"]\nbrand-new = "m:P"\n'
        '[project.entry-points.other]\nx = "m:P"\n'
    )
    sys.path.insert(0, str(TOOL.parent))
    try:
        import known_methods
    finally:
        sys.path.remove(str(TOOL.parent))
    assert known_methods.known_names(tmp_path) == {QUANTIZERS: {"brand_new": "quantload-new"}}
    (tmp_path / "tools" / "planned.toml").write_text(
        '[quantload-new]\n"quantload.quantizers" = ["gone"]\n'
        '[quantload-later]\n"quantload.quantizers" = ["later"]\n'
    )
    assert known_methods.known_names(tmp_path) == {
        QUANTIZERS: {"brand_new": "quantload-new", "later": "quantload-later"}
    }
    (tmp_path / "tools" / "planned.toml").write_text(
        '[quantload-later]\n"quantload.quantizers" = ["brand-new"]\n'
    )
    with pytest.raises(SystemExit, match="claimed by quantload-later and quantload-new"):
        known_methods.known_names(tmp_path)


def test_the_table_is_read_by_the_keys_that_are_looked_up():
    assert set(known()) <= set(GROUPS)
    assert all(method_key(name) == name for name in known()[QUANTIZERS])
    assert "BitsAndBytesConfig" in known()[EXPORTS]
