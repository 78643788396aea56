"""An AQLM checkpoint: sums of codebook entries, about two bits a weight."""

from __future__ import annotations

from _model import PROMPT, packed_checkpoint
from transformers import AutoTokenizer

import quantload

TWO_BITS = {"quant_method": "aqlm", "num_codebooks": 2, "nbits_per_codebook": 8}

with packed_checkpoint(TWO_BITS) as folder:
    model = quantload.load_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

config = model.hf_quantizer.quantization_config
entries = 2**config.nbits_per_codebook
print(f"{config.quant_method}: {config.num_codebooks} codebooks of {entries} entries")
print(f"{model.get_memory_footprint() / 1e6:.2f} MB of weights")
tokens = model.generate(
    **tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=30, do_sample=False
)
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
