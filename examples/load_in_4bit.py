"""NF4 with double quantization, computing in bfloat16; quantized while the model is loaded."""

from __future__ import annotations

import torch
from _model import PROMPT, checkpoint
from transformers import AutoTokenizer

import quantload
from quantload import BitsAndBytesConfig

config = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)
model = quantload.load_model(checkpoint(), quantization_config=config)
tokenizer = AutoTokenizer.from_pretrained(checkpoint())

inputs = tokenizer(PROMPT, return_tensors="pt")
tokens = model.generate(**inputs, max_new_tokens=30, do_sample=False)
print(f"{model.get_memory_footprint() / 1e6:.2f} MB of weights")
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
