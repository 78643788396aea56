"""Quantize once, save in the method's own layout, load again: the packed bytes are the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from _model import checkpoint

import quantload
from quantload import AutoQuantizationConfig
from quantload.plugin import PackedWeight

model = quantload.load_model(
    checkpoint(), quantization_config={"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
)

with tempfile.TemporaryDirectory() as folder:
    target = Path(folder) / "nf4"
    quantload.save_model(model, target)
    for file in sorted(target.iterdir()):
        print(f"{file.stat().st_size:>12,} bytes  {file.name}")
    stored = AutoQuantizationConfig.from_pretrained(target)
    print(f"config.json now says: {stored.to_diff_dict()}")
    again = quantload.load_model(target, mmap=False)

before = {n: m for n, m in model.named_modules() if isinstance(m, PackedWeight)}
after = {n: m for n, m in again.named_modules() if isinstance(m, PackedWeight)}
equal = all(
    torch.equal(one, other)
    for name, weight in before.items()
    for one, other in zip(weight.parameters(), after[name].parameters(), strict=True)
)
print(f"{len(before)} packed weights, equal byte for byte after saving and loading: {equal}")

restored: Any = quantload.dequantize(again)
packed = sum(isinstance(module, PackedWeight) for module in restored.modules())
print(f"dequantized: {restored.get_memory_footprint() / 1e6:.2f} MB, {packed} packed weights left")
