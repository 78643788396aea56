"""What one model weighs in float, 8-bit and 4-bit, and where the bytes are."""

from __future__ import annotations

from typing import Any

from _model import checkpoint
from rich.console import Console
from rich.table import Table

import quantload
from quantload.plugin import PackedWeight

WAYS: dict[str, dict[str, Any] | None] = {
    "float, as stored": None,
    "8-bit": {"load_in_8bit": True},
    "NF4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "NF4, double quantization": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
}

table = Table("loaded as", "MB", "packed MB", "bits a packed weight")
for label, config in WAYS.items():
    model = quantload.load_model(checkpoint(), quantization_config=config)
    packed = [module for module in model.modules() if isinstance(module, PackedWeight)]
    stored = sum(weight.nbytes for weight in packed)
    weights = sum(weight.shape.numel() for weight in packed)
    table.add_row(
        label,
        f"{model.get_memory_footprint() / 1e6:.2f}",
        f"{stored / 1e6:.2f}",
        f"{8 * stored / weights:.2f}" if weights else "",
    )
Console().print(table)
print("Embeddings, the head tied to them and the norms stay in float in every row.")
