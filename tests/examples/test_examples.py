"""Every script in examples/ runs as a reader would run it, and prints what it is there to show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHOWN = {
    "choose_a_quantizer": ["quant_method=bitsandbytes", "available:     yes", "relative error"],
    "custom_module": ["QuantizedLinear", "largest difference from the float module: 0.0"],
    "load_in_4bit": ["MB of weights", "def read_json"],
    "load_in_8bit": ["threshold 6.0", "threshold 0.0", "the same next token"],
    "memory_footprints": ["float, as stored", "NF4, double quantization"],
    "offload": ["by hand: .*'disk'", "by limit: .*'disk'", "the same logits as in memory: True"],
    "save_and_reload": [
        "model.safetensors",
        "28 packed weights, equal byte for byte after saving and loading: True",
        "0 packed weights left",
    ],
}
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("[!_]*.py") if path.stem != "demo")


def run(script: str, folder: Path, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{script}.py"), *args],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_every_script_has_its_line_here() -> None:
    assert sorted(SHOWN) == SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_and_shows_what_it_is_for(script: str, tmp_path: Path) -> None:
    printed = run(script, tmp_path)
    for wanted in SHOWN[script]:
        assert re.search(wanted, printed), f"no {wanted!r} in:\n{printed}"
    assert list(tmp_path.iterdir()) == [], "an example leaves nothing behind"
