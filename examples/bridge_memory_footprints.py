"""What one model weighs by several methods, through `from_pretrained`, and a chart of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _chart import footprints
from _model import checkpoint, output
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import quantload
from quantload.plugin import PackedWeight

quantload.enable_transformers()

CONFIGS: dict[str, Any] = {
    "float, as stored": None,
    "8-bit": BitsAndBytesConfig(load_in_8bit=True),
    "4-bit": BitsAndBytesConfig(load_in_4bit=True),
    "GGUF Q4_0": quantload.GgufConfig(type="Q4_0"),
    "GPTQ 4-bit": {"quant_method": "gptq", "bits": 4, "group_size": 128},
}

rows: dict[str, tuple[float, float]] = {}
for label, config in CONFIGS.items():
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint(), quantization_config=config, device_map="auto"
    )
    stored = sum(m.nbytes for m in model.modules() if isinstance(m, PackedWeight))
    whole = model.get_memory_footprint()
    rows[label] = (stored / 1e6, (whole - stored) / 1e6)
    print(f"{label}: {whole / 1e6:.2f} MB, {stored / 1e6:.2f} MB of it packed")
chart = output("memory_footprints_bridge.png")
footprints(rows, f"{Path(checkpoint()).name} by method", chart)
print(f"chart: {chart}")
