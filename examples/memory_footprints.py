"""What one model weighs by every method, where the bytes are, and a chart of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _chart import footprints
from _model import checkpoint, output
from rich.console import Console
from rich.table import Table

import quantload
from quantload.plugin import PackedWeight

WAYS: dict[str, dict[str, Any] | None] = {
    "float, as stored": None,
    "LLM.int8": {"load_in_8bit": True},
    "GGUF Q8_0": {"quant_method": "gguf", "type": "Q8_0"},
    "GGUF Q4_0": {"quant_method": "gguf", "type": "Q4_0"},
    "NF4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "NF4, double quantization": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    "GPTQ 4-bit": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "AWQ 4-bit": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "AQLM 2x8": {"quant_method": "aqlm", "num_codebooks": 2, "nbits_per_codebook": 8},
}

table = Table("loaded as", "MB", "packed MB", "bits a packed weight")
rows: dict[str, tuple[float, float]] = {}
for label, config in WAYS.items():
    model = quantload.load_model(checkpoint(), quantization_config=config)
    packed = [module for module in model.modules() if isinstance(module, PackedWeight)]
    stored = sum(weight.nbytes for weight in packed)
    weights = sum(weight.shape.numel() for weight in packed)
    whole = model.get_memory_footprint()
    rows[label] = (stored / 1e6, (whole - stored) / 1e6)
    bits = f"{8 * stored / weights:.2f}" if weights else ""
    table.add_row(label, f"{whole / 1e6:.2f}", f"{stored / 1e6:.2f}", bits)
Console().print(table)
print("Embeddings, the head tied to them and the norms stay in float in every row.")
chart = output("memory_footprints.png")
footprints(rows, f"{Path(checkpoint()).name} by method", chart)
print(f"chart: {chart}")
