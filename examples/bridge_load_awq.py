"""An AWQ checkpoint through `from_pretrained`, with the config class of `transformers`."""

from __future__ import annotations

from _model import PROMPT, packed_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, AwqConfig

import quantload

quantload.enable_transformers()
config = AwqConfig(bits=4, group_size=128, version="gemm")

with packed_checkpoint({"quant_method": "awq", "bits": 4, "group_size": 128}) as folder:
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map="auto"
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)

print(f"{model.hf_quantizer.quant_method}: {type(model.model.layers[0].mlp.up_proj).__name__}")
print(f"{model.get_memory_footprint() / 1e6:.2f} MB of weights")
tokens = model.generate(
    **tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=30, do_sample=False
)
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
