"""Gemma 2 and 3: norms stored plus one, windows on most layers."""

from __future__ import annotations

from typing import Any

from quantload_gguf.architectures.common import (
    GATED_MLP,
    LAYER,
    LLAMA_LIKE,
    SLIDING_WINDOW,
    attention,
    window_of,
)
from quantload_gguf.architectures.facts import Facts
from quantload_gguf.architectures.keys import Keys
from quantload_gguf.architectures.rope import rope_parameters, write_rope
from quantload_gguf.architectures.table import Architecture, Setting, optional, rule
from quantload_gguf.architectures.transforms import MinusOne

_PLUS_ONE = MinusOne()
_NORMS = (
    rule(f"{LAYER}.input_layernorm", "blk.{i}.attn_norm", how=_PLUS_ONE),
    rule(f"{LAYER}.post_attention_layernorm", "blk.{i}.post_attention_norm", how=_PLUS_ONE),
    rule(f"{LAYER}.pre_feedforward_layernorm", "blk.{i}.ffn_norm", how=_PLUS_ONE),
    rule(f"{LAYER}.post_feedforward_layernorm", "blk.{i}.post_ffw_norm", how=_PLUS_ONE),
)
_RULES = (
    rule("model.embed_tokens", "token_embd"),
    rule("model.norm", "output_norm", how=_PLUS_ONE),
    rule("lm_head", "output"),
    *attention(),
    *GATED_MLP,
    *_NORMS,
)

# Layers of the models that scale queries by hidden size over heads (llama.cpp tells
# them by this number as well: the file does not say).
_LARGEST = {"gemma2": 46, "gemma3": 62}


def _query_scale(facts: Facts) -> int:
    if facts.blocks == _LARGEST[facts.architecture]:
        return int(facts.whole("embedding_length")) // facts.heads
    return facts.head_dim


def _layer_types(facts: Facts) -> list[str]:
    """Which layers have a window: every one but the last of each period."""
    every = facts.get("attention.sliding_window_pattern", 6)
    if isinstance(every, list):
        return [_KINDS[bool(windowed)] for windowed in every]
    if not window_of(facts):
        return [_KINDS[False]] * facts.blocks
    return [_KINDS[bool((i + 1) % every)] for i in range(facts.blocks)]


_KINDS = {True: "sliding_attention", False: "full_attention"}


def _two_ropes(facts: Facts) -> dict[str, Any]:
    """Full layers are stretched; those with a window have a base of their own."""
    local = facts.number("rope.freq_base_swa", 10000.0)
    return {
        "full_attention": rope_parameters(facts, 1_000_000.0),
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }


def _write_layer_types(value: Any, config: Any, keys: Keys) -> None:
    windowed = [kind == _KINDS[True] for kind in value]
    if config.sliding_window and windowed != [bool((i + 1) % 6) for i in range(len(windowed))]:
        keys.flags("attention.sliding_window_pattern", windowed)


def _write_two_ropes(value: Any, config: Any, keys: Keys) -> None:
    write_rope(value["full_attention"], config, keys)
    base = value["sliding_attention"]["rope_theta"]
    if base != 10000:
        keys.number("rope.freq_base_swa", base)


_SETTINGS = {
    **LLAMA_LIKE,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": Setting(_query_scale),
    "attn_logit_softcapping": optional("attn_logit_softcapping"),
    "final_logit_softcapping": optional("final_logit_softcapping"),
    "sliding_window": SLIDING_WINDOW,
}

GEMMA2 = Architecture(
    "gemma2",
    "Gemma2ForCausalLM",
    {
        **_SETTINGS,
        # Its first files do not say; all models have this one.
        "sliding_window": Setting(
            lambda facts: facts.whole("attention.sliding_window", 4096) or None,
            SLIDING_WINDOW.write,
        ),
    },
    _RULES,
)

GEMMA3 = Architecture(
    "gemma3_text",
    "Gemma3ForCausalLM",
    {
        **_SETTINGS,
        "layer_types": Setting(_layer_types, _write_layer_types),
        "rope_parameters": Setting(_two_ropes, _write_two_ropes),
    },
    (
        *_RULES,
        rule(f"{LAYER}.self_attn.q_norm", "blk.{i}.attn_q_norm", how=_PLUS_ONE),
        rule(f"{LAYER}.self_attn.k_norm", "blk.{i}.attn_k_norm", how=_PLUS_ONE),
    ),
)
