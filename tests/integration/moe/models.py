"""Small mixtures of experts with random weights, and what the tests of them share."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import quantload

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
SPARSE: dict[str, Any] = {"num_experts": 4, "moe_intermediate_size": 32}
LATENT: dict[str, Any] = {
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 32,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
FULL = {"layer_types": ["full_attention", "full_attention"]}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralForCausalLM", {"num_local_experts": 4}),
    "qwen2-moe": ("Qwen2MoeForCausalLM", {**SPARSE, "shared_expert_intermediate_size": 64}),
    "qwen3-moe": ("Qwen3MoeForCausalLM", SPARSE),
    "olmoe": ("OlmoeForCausalLM", {"num_experts": 4, "intermediate_size": 32}),
    "deepseek-v3": ("DeepseekV3ForCausalLM", LATENT),
    "gpt-oss": (
        "GptOssForCausalLM",
        {"num_local_experts": 4, "intermediate_size": 64, **FULL},
    ),
    "llama4": (
        "Llama4ForCausalLM",
        {
            "num_local_experts": 4,
            "intermediate_size": 32,
            "intermediate_size_mlp": 64,
            "interleave_moe_layer_step": 1,
        },
    ),
}
"""Kind -> class, and what its config has beside `SMALL`."""


def original(kind: str, **more: Any) -> Any:
    """A float model, in evaluation mode."""
    name, settings = MODELS[kind]
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    model: Any = cls(cls.config_class(**{**SMALL, **settings, **more})).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
def logits(model: Any, rows: int = 2) -> Tensor:
    ids = torch.randint(3, 96, (rows, 7), generator=torch.Generator().manual_seed(1))
    found: Tensor = model(ids).logits.float()
    return found


def floated(model: Any) -> Any:
    """The same model, dequantized, running the loop of its own class."""
    twin: Any = quantload.dequantize(copy.deepcopy(model), torch.float32)
    if twin._can_set_experts_implementation():
        twin.set_experts_implementation("eager")
    return twin


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's files."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def assert_same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """The names, dtypes and bytes of two checkpoints are the same."""
    assert sorted(one) == sorted(other)
    for name, tensor in one.items():
        assert other[name].dtype == tensor.dtype, name
        assert torch.equal(other[name], tensor), name
