"""A GGUF file through `from_pretrained(..., gguf_file=)`: the blocks stay packed."""

from __future__ import annotations

from pathlib import Path

from _model import PROMPT, packed_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

import quantload

quantload.enable_transformers()
with packed_checkpoint({"quant_method": "gguf", "type": "Q8_0"}, "demo-Q8_0.gguf") as file:
    where, name = Path(file).parent, Path(file).name
    model = AutoModelForCausalLM.from_pretrained(where, gguf_file=name)
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)

print(f"gguf: {model.model.layers[0].mlp.up_proj}")
print(f"{model.get_memory_footprint() / 1e6:.2f} MB of weights")
tokens = model.generate(
    **tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=30, do_sample=False
)
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
