"""One config for every way of packing that quantizes while loading."""

from __future__ import annotations

from typing import Any

CONFIGS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
    "gguf": {"quant_method": "gguf", "type": "Q8_0"},
    "aqlm": {"quant_method": "aqlm", "num_codebooks": 2, "nbits_per_codebook": 8},
}
