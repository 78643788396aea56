"""Qwen2 and Qwen3, dense and with experts."""

from __future__ import annotations

from quantload_gguf.architectures.common import (
    ENDS,
    EXPERTS,
    FREQUENCIES,
    GATED_MLP,
    LAYER,
    LLAMA_LIKE,
    QK_NORMS,
    QUERY_BIAS,
    TWO_NORMS,
    attention,
)
from quantload_gguf.architectures.facts import Facts
from quantload_gguf.architectures.table import Architecture, Setting, present, rule, whole
from quantload_gguf.architectures.transforms import OneRow

_BASE = (*ENDS, *TWO_NORMS, *attention())
_DENSE = {**LLAMA_LIKE, "hidden_act": "silu", "use_sliding_window": False}


def _expert_width(facts: Facts) -> int:
    """The rows of one expert's down-projection input, where the metadata lacks them."""
    found = facts.whole("expert_feed_forward_length", 0)
    return found or facts.shape("blk.0.ffn_down_exps.weight")[-1]


def _shared_width(facts: Facts) -> int:
    found = facts.whole("expert_shared_feed_forward_length", 0)
    return found or facts.shape("blk.0.ffn_down_shexp.weight")[-1]


_SPARSE = {
    "num_experts": whole("expert_count"),
    "num_experts_per_tok": whole("expert_used_count"),
    "moe_intermediate_size": Setting(_expert_width, whole("expert_feed_forward_length").write),
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}

QWEN2 = Architecture("qwen2", "Qwen2ForCausalLM", _DENSE, (*_BASE, *GATED_MLP), FREQUENCIES)

QWEN3 = Architecture(
    "qwen3",
    "Qwen3ForCausalLM",
    {**_DENSE, "attention_bias": present(*QUERY_BIAS)},
    (*_BASE, *QK_NORMS, *GATED_MLP),
    FREQUENCIES,
)

QWEN2MOE = Architecture(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    {
        **_DENSE,
        **_SPARSE,
        "shared_expert_intermediate_size": Setting(
            _shared_width, whole("expert_shared_feed_forward_length").write
        ),
        "norm_topk_prob": False,  # as every published model of this architecture has it
        "qkv_bias": present(*QUERY_BIAS),
    },
    (
        *_BASE,
        *EXPERTS,
        rule(f"{LAYER}.mlp.shared_expert.gate_proj", "blk.{i}.ffn_gate_shexp"),
        rule(f"{LAYER}.mlp.shared_expert.up_proj", "blk.{i}.ffn_up_shexp"),
        rule(f"{LAYER}.mlp.shared_expert.down_proj", "blk.{i}.ffn_down_shexp"),
        rule(f"{LAYER}.mlp.shared_expert_gate", "blk.{i}.ffn_gate_inp_shexp", how=OneRow()),
    ),
    FREQUENCIES,
)

QWEN3MOE = Architecture(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    {
        **_DENSE,
        **_SPARSE,
        "norm_topk_prob": True,  # likewise
        "attention_bias": present(*QUERY_BIAS),
    },
    (*_BASE, *QK_NORMS, *EXPERTS),
    FREQUENCIES,
)
