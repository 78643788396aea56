"""Llama and what is stored as Llama: Mistral, Mixtral."""

from __future__ import annotations

from quantload_gguf.architectures.common import (
    ENDS,
    EXPERTS,
    FREQUENCIES,
    GATED_MLP,
    LLAMA_LIKE,
    QUERY_BIAS,
    SLIDING_WINDOW,
    TWO_NORMS,
    attention,
)
from quantload_gguf.architectures.table import Architecture, present, whole
from quantload_gguf.architectures.transforms import Rotary

_ATTENTION = (*ENDS, *TWO_NORMS, *attention(Rotary(), Rotary(keys=True)))

LLAMA = Architecture(
    "llama",
    "LlamaForCausalLM",
    {
        **LLAMA_LIKE,
        "hidden_act": "silu",
        "attention_bias": present(*QUERY_BIAS),
        "mlp_bias": present("blk.0.ffn_gate.bias"),
    },
    (*_ATTENTION, *GATED_MLP),
    FREQUENCIES,
)

MISTRAL = Architecture(
    "mistral",
    "MistralForCausalLM",
    {**LLAMA_LIKE, "hidden_act": "silu", "sliding_window": SLIDING_WINDOW},
    (*_ATTENTION, *GATED_MLP),
    FREQUENCIES,
)

MIXTRAL = Architecture(
    "mixtral",
    "MixtralForCausalLM",
    {
        **LLAMA_LIKE,
        "hidden_act": "silu",
        "sliding_window": SLIDING_WINDOW,
        "num_local_experts": whole("expert_count"),
        "num_experts_per_tok": whole("expert_used_count"),
    },
    (*_ATTENTION, *EXPERTS),
    FREQUENCIES,
)
