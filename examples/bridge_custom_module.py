"""A loading pipeline of one's own around a class of `transformers`, step by step."""

from __future__ import annotations

import torch
from _model import PROMPT, checkpoint
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.quantizers import AutoHfQuantizer

import quantload
from quantload.plugin import PackedWeight

quantload.enable_transformers()
described = BitsAndBytesConfig(load_in_8bit=True)
quantizer = AutoHfQuantizer.from_config(described, pre_quantized=False)
print(f"method: {quantizer.quant_method}, available: {bool(quantizer.is_available())}")

with init_empty_weights():  # shapes and no memory; buffers that no file holds keep their values
    config = AutoConfig.from_pretrained(checkpoint())
    model = AutoModelForCausalLM.from_config(config)
model.tie_weights()
report = quantload.load_into(model, checkpoint(), quantization_config=described)
print(f"packed: {len(report.packed)}, missing: {report.missing}, unexpected: {report.unexpected}")

packed = [name for name, module in model.named_modules() if isinstance(module, PackedWeight)]
print(f"{len(packed)} packed weights, the first is {packed[0]}")
tokenizer = AutoTokenizer.from_pretrained(checkpoint())
with torch.inference_mode():
    logits = model(**tokenizer(PROMPT, return_tensors="pt")).logits
print(f"the next token is {tokenizer.decode(logits[0, -1].argmax())!r}")
