"""Models of experts that quantload itself quantizes and saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import quantload

METHODS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "int8": {"load_in_8bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32},
    "gguf": {"quant_method": "gguf", "type": "Q8_0"},
}
IN_FILE = {  # the name of the same layer in checkpoints of the class
    "mixtral": "model.layers.1.block_sparse_moe.experts.2.w3",
    "qwen2-moe": "model.layers.1.mlp.experts.2.up_proj",
    "qwen3-moe": "model.layers.1.mlp.experts.2.up_proj",
}
UP = "model.layers.1.mlp.experts.2.up_proj"
SOME = [("mixtral", "gptq"), ("qwen2-moe", "int8"), ("qwen3-moe", "nf4")]
Packed = tuple[str, Any, Path, Path]
"""Kind, model, its folder, and that of the float model."""


def make(
    made: dict[Any, Packed], originals: dict[str, Path], factory: Any, kind: str, method: str
) -> Packed:
    if (kind, method) not in made:
        source = originals[kind]
        model = quantload.load_model(source, quantization_config=dict(METHODS[method]))
        folder = factory.mktemp("packed")
        quantload.save_model(model, folder, max_shard_size="5GB")  # not as a .gguf file
        made[kind, method] = (kind, model, folder, source)
    return made[kind, method]
