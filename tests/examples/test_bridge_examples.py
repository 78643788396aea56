"""Every example in the spelling of `transformers`, with the bridge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("transformers")

SHOWN = {
    "choose_a_quantizer": ["supports bitsandbytes\n  it is ready", "supports aqlm", "did you mean"],
    "custom_module": ["available: True", "packed: 28, missing: \\[\\]", "the next token is"],
    "load_aqlm": ["aqlm: QuantizedLinear", "3.14 MB of weights", "def read_json"],
    "load_awq": ["awq: QuantizedLinear", "3.(75|85) MB of weights", "def read_json"],
    "load_gguf": ["GgufWeight\\(Q8_0", "MB of weights", "def read_json"],
    "load_gptq": ["gptq: QuantizedLinear", "3.(79|88) MB of weights", "def read_json"],
    "load_in_4bit": ["3.76 MB of weights", "def read_json"],
    "load_in_8bit": ["threshold 6.0", "threshold 0.0", "the same next token"],
    "memory_footprints": ["8-bit: 5.29 MB", "4-bit: 3.87 MB", "chart: "],
    "offload": ["by hand: .*'disk'", "by limit: .*'disk'", "the same logits as in memory: True"],
    "save_and_reload": ["the same logits after saving and loading: True", "0 packed weights left"],
    "validate_config": ["NF4: ready", "found 'nf5', expected", "did you mean 'bitsandbytes'"],
}


@pytest.mark.parametrize("name", SHOWN)
def test_it_shows_what_the_other_spelling_shows(
    name: str, shows: Callable[[str, list[str]], Path]
) -> None:
    shows(f"bridge_{name}", SHOWN[name])
