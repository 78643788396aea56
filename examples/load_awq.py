"""An AWQ checkpoint: its own config says how it is packed."""

from __future__ import annotations

from _model import PROMPT, packed_checkpoint
from transformers import AutoTokenizer

import quantload

with packed_checkpoint({"quant_method": "awq", "bits": 4, "group_size": 128}) as folder:
    model = quantload.load_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

config = model.hf_quantizer.quantization_config
print(f"{config.quant_method}: {config.bits} bits, groups of {config.group_size}")
print(f"{model.get_memory_footprint() / 1e6:.2f} MB of weights")
tokens = model.generate(
    **tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=30, do_sample=False
)
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
