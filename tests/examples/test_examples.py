"""Every script in examples/ runs as a reader would run it, and prints what it is there to show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("transformers")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHOWN = {
    "choose_a_quantizer": [
        "quant_method=bitsandbytes",
        "quant_method=gptq",
        "available:     yes",
        "relative error",
    ],
    "custom_module": ["QuantizedLinear", "largest difference from the float module: 0.0"],
    "load_aqlm": ["aqlm: 2 codebooks of 256 entries", "3.14 MB of weights", "def read_json"],
    "load_awq": ["awq: 4 bits, groups of 128", "MB of weights", "def read_json"],
    "load_gguf": ["GgufWeight\\(Q8_0", "MB of weights", "def read_json"],
    "load_gptq": ["gptq: 4 bits, groups of 128", "MB of weights", "def read_json"],
    "load_in_4bit": ["MB of weights", "def read_json"],
    "load_in_8bit": ["threshold 6.0", "threshold 0.0", "the same next token"],
    "memory_footprints": ["float, as stored", "NF4, double quantization", "chart: "],
    "offload": ["by hand: .*'disk'", "by limit: .*'disk'", "the same logits as in memory: True"],
    "save_and_reload": [
        "model.safetensors",
        "28 packed weights, equal byte for byte after saving and loading: True",
        "0 packed weights left",
    ],
    "validate_config": [
        "NF4: ready",
        "bnb_4bit_quant_type is 'nf5', expected one of 'fp4', 'nf4'",
        "GPTQ of nine bits: no: bits is 9",
        "did you mean 'bitsandbytes'",
        "the checkpoint holds 38 tensors, 8.39 MB",
    ],
}
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("[!_]*.py"))
ALONE = [name for name in SCRIPTS if not name.startswith("bridge_") and name != "demo"]


def test_every_script_has_its_line_here() -> None:
    assert sorted(SHOWN) == ALONE


def test_every_example_exists_in_both_spellings() -> None:
    bridged = {name.removeprefix("bridge_") for name in SCRIPTS if name.startswith("bridge_")}
    assert bridged == set(ALONE)


@pytest.mark.parametrize("script", ALONE)
def test_a_script_runs_and_shows_what_it_is_for(
    script: str, shows: Callable[[str, list[str]], Path]
) -> None:
    out = shows(script, SHOWN[script])
    if script == "memory_footprints":
        from PIL import Image

        with Image.open(out / "memory_footprints.png") as picture:
            assert picture.size[0] >= 1000
