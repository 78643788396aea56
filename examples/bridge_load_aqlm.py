"""An AQLM checkpoint through `from_pretrained`: neither `aqlm` nor a GPU is needed."""

from __future__ import annotations

from _model import PROMPT, packed_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

import quantload

quantload.enable_transformers()

with packed_checkpoint(
    {"quant_method": "aqlm", "num_codebooks": 2, "nbits_per_codebook": 8}
) as folder:
    model = AutoModelForCausalLM.from_pretrained(folder, device_map="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder)

print(f"{model.hf_quantizer.quant_method}: {type(model.model.layers[0].mlp.up_proj).__name__}")
print(f"{model.get_memory_footprint() / 1e6:.2f} MB of weights")
tokens = model.generate(
    **tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=30, do_sample=False
)
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
