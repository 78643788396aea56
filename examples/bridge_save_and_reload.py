"""`save_pretrained` and back: quantized once, saved in the method's own layout."""

from __future__ import annotations

import tempfile

import torch
from _model import PROMPT, checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

import quantload
from quantload.plugin import PackedWeight

quantload.enable_transformers()
nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
model = AutoModelForCausalLM.from_pretrained(checkpoint(), quantization_config=nf4)
inputs = AutoTokenizer.from_pretrained(checkpoint())(PROMPT, return_tensors="pt")

with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
    model.save_pretrained(folder)
    again = AutoModelForCausalLM.from_pretrained(folder)
    same = torch.equal(again(**inputs).logits, model(**inputs).logits)
print(f"the same logits after saving and loading: {same}")

restored = again.dequantize()
packed = sum(isinstance(module, PackedWeight) for module in restored.modules())
print(f"dequantized: {restored.get_memory_footprint() / 1e6:.2f} MB, {packed} packed weights left")
