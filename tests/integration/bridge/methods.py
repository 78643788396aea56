"""Every method, by a config that quantizes a float model with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

METHODS: dict[str, dict[str, Any]] = {
    "nf4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True},
    "gptq3": {"quant_method": "gptq", "bits": 3, "group_size": 64, "sym": False, "desc_act": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32},
    "aqlm": {"quant_method": "aqlm", "num_codebooks": 1, "nbits_per_codebook": 8},
    "gguf": {"quant_method": "gguf", "type": "Q8_0"},
    "q4_0": {"quant_method": "gguf", "type": "Q4_0"},
    "toy8": {"quant_method": "toy8"},
    "hqq": {"quant_method": "hqq", "nbits": 4, "group_size": 64},
    "rtn8": {"quant_method": "rtn8"},
}
"""The last three are strangers', registered in code."""

TINY: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
"""Settings of a small Llama."""


def logits_of(model: Any, ids: Tensor) -> Tensor:
    """What a model says, without gradients."""
    with torch.no_grad():
        found: Tensor = model(ids).logits
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two checkpoints have the same tensors, byte for byte."""
    return one.keys() == other.keys() and all(
        torch.equal(t.reshape(-1).view(torch.uint8), other[k].reshape(-1).view(torch.uint8))
        for k, t in one.items()
    )
