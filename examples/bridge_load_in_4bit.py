"""NF4 with double quantization, computing in bfloat16, through `from_pretrained`."""

from __future__ import annotations

import torch
from _model import PROMPT, checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

import quantload

quantload.enable_transformers()
config = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)
model = AutoModelForCausalLM.from_pretrained(
    checkpoint(), quantization_config=config, device_map="auto"
)
tokenizer = AutoTokenizer.from_pretrained(checkpoint())

inputs = tokenizer(PROMPT, return_tensors="pt").to(model.device)
tokens = model.generate(**inputs, max_new_tokens=30, do_sample=False)
print(f"{model.get_memory_footprint() / 1e6:.2f} MB of weights")
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
