"""A GGUF file: model, config and tokenizer are all in it, and the blocks stay packed."""

from __future__ import annotations

from _model import PROMPT, packed_checkpoint

import quantload
from quantload_gguf import load_tokenizer

with packed_checkpoint({"quant_method": "gguf", "type": "Q8_0"}, "demo-Q8_0.gguf") as file:
    model = quantload.load_model(file)
    tokenizer = load_tokenizer(file)

print(f"gguf: {model.model.layers[0].mlp.up_proj}")
print(f"{model.get_memory_footprint() / 1e6:.2f} MB of weights")
tokens = model.generate(
    **tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=30, do_sample=False
)
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
