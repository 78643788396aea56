"""LLM.int8 with a threshold, through `from_pretrained`."""

from __future__ import annotations

import torch
from _model import PROMPT, checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

import quantload

quantload.enable_transformers()
tokenizer = AutoTokenizer.from_pretrained(checkpoint())
inputs = tokenizer(PROMPT, return_tensors="pt")
reference = AutoModelForCausalLM.from_pretrained(checkpoint(), dtype=torch.float32)

for threshold in (6.0, 0.0):
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)
    model = AutoModelForCausalLM.from_pretrained(checkpoint(), quantization_config=config)
    with torch.inference_mode():
        wanted, found = reference(**inputs).logits, model(**inputs).logits.float()
    agree = (wanted.argmax(-1) == found.argmax(-1)).float().mean()
    print(
        f"threshold {threshold}: {model.get_memory_footprint() / 1e6:.2f} MB of weights, "
        f"the same next token at {agree:.0%} of the positions"
    )
