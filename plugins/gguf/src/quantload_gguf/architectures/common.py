"""What most decoders have in common: names and settings of the Llama kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantload_gguf.architectures.facts import Facts
from quantload_gguf.architectures.keys import Keys
from quantload_gguf.architectures.rope import ROPE
from quantload_gguf.architectures.table import Rule, Setting, absent, number, rule, whole
from quantload_gguf.architectures.transforms import EachExpert, Experts, RowOrder, Share

RMS = "attention.layer_norm_rms_epsilon"
EPSILON = "attention.layer_norm_epsilon"
FREQUENCIES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
LAYER = "model.layers.{i}"

_FIRST_UP = "blk.0.ffn_up.weight"


def _mlp_width(facts: Facts) -> int:
    """Of the tensors: for some models converters write four times the hidden size always."""
    if facts.has(_FIRST_UP):
        return facts.shape(_FIRST_UP)[0]
    return int(facts.whole("feed_forward_length"))


MLP_WIDTH = Setting(_mlp_width, whole("feed_forward_length").write)

SIZES: Mapping[str, Any] = {
    "vocab_size": Setting(lambda facts: facts.vocabulary, lambda v, _, k: k.whole("vocab_size", v)),
    "hidden_size": whole("embedding_length"),
    "num_hidden_layers": whole("block_count"),
    "num_attention_heads": Setting(lambda facts: facts.heads, whole("attention.head_count").write),
    "num_key_value_heads": Setting(
        lambda facts: facts.kv_heads, whole("attention.head_count_kv").write
    ),
    "intermediate_size": whole("feed_forward_length"),
    "max_position_embeddings": whole("context_length"),
    "tie_word_embeddings": absent("output.weight"),
}
"""Settings under the names that most config classes have for them."""


def _write_head_dim(value: Any, config: Any, keys: Keys) -> None:
    keys.whole("attention.key_length", value)
    keys.whole("attention.value_length", value)
    keys.whole("rope.dimension_count", value or config.hidden_size // config.num_attention_heads)


LLAMA_LIKE: Mapping[str, Any] = {
    **SIZES,
    "head_dim": Setting(lambda facts: facts.head_dim, _write_head_dim),
    "rms_norm_eps": number(RMS),
    "rope_parameters": ROPE,
}

ENDS = (
    rule("model.embed_tokens", "token_embd"),
    rule("model.norm", "output_norm"),
    rule("lm_head", "output"),
)
"""Embedding, last norm and head."""


_MERGED, _APART = "blk.{i}.attn_qkv", "blk.{i}.attn_q.weight"
QUERY_BIAS = ("blk.0.attn_q.bias", "blk.0.attn_qkv.bias")
"""One of these is there where the projections have biases."""


def attention(q: RowOrder | None = None, k: RowOrder | None = None) -> tuple[Rule, ...]:
    """The four projections of attention.

    Args:
        q: what is done to the rows of the queries.
        k: what is done to those of the keys.
    """
    return (
        rule(f"{LAYER}.self_attn.q_proj", "blk.{i}.attn_q", how=q),
        rule(f"{LAYER}.self_attn.k_proj", "blk.{i}.attn_k", how=k),
        rule(f"{LAYER}.self_attn.v_proj", "blk.{i}.attn_v"),
        rule(f"{LAYER}.self_attn.o_proj", "blk.{i}.attn_output"),
        # Merged, as converters write them when asked to.
        rule(f"{LAYER}.self_attn.q_proj", _MERGED, how=Share("q", q), excludes=_APART),
        rule(f"{LAYER}.self_attn.k_proj", _MERGED, how=Share("k", k), excludes=_APART),
        rule(f"{LAYER}.self_attn.v_proj", _MERGED, how=Share("v"), excludes=_APART),
    )


GATED_MLP = (
    rule(f"{LAYER}.mlp.gate_proj", "blk.{i}.ffn_gate"),
    rule(f"{LAYER}.mlp.up_proj", "blk.{i}.ffn_up"),
    rule(f"{LAYER}.mlp.down_proj", "blk.{i}.ffn_down"),
)

QK_NORMS = (
    rule(f"{LAYER}.self_attn.q_norm", "blk.{i}.attn_q_norm"),
    rule(f"{LAYER}.self_attn.k_norm", "blk.{i}.attn_k_norm"),
)

TWO_NORMS = (
    rule(f"{LAYER}.input_layernorm", "blk.{i}.attn_norm"),
    rule(f"{LAYER}.post_attention_layernorm", "blk.{i}.ffn_norm"),
)

_STACKED = f"{LAYER}.mlp.experts"

EXPERTS = (
    rule(f"{LAYER}.mlp.gate", "blk.{i}.ffn_gate_inp"),
    *(
        Rule(
            f"{_STACKED}.{{e}}.{part}_proj",
            ((f"blk.{{i}}.ffn_{part}_exps",), (f"blk.{{i}}.ffn_{part}.{{e}}",)),
            EachExpert(),
            packed=True,
        )
        for part in ("gate", "up", "down")
    ),
    Rule(
        f"{_STACKED}.gate_up_proj",
        (
            ("blk.{i}.ffn_gate_exps", "blk.{i}.ffn_up_exps"),
            ("blk.{i}.ffn_gate.{e}", "blk.{i}.ffn_up.{e}"),
        ),
        Experts(parts=2),
        bare=True,
        packed=False,
    ),
    Rule(
        f"{_STACKED}.down_proj",
        (("blk.{i}.ffn_down_exps",), ("blk.{i}.ffn_down.{e}",)),
        Experts(),
        bare=True,
        packed=False,
    ),
)
"""A router, and the experts: packed ones each by itself, others stacked as classes have them."""


def window_of(facts: Facts) -> int | None:
    """The window of attention; None where it reaches everywhere."""
    return facts.whole("attention.sliding_window", 0) or None


SLIDING_WINDOW = Setting(window_of, whole("attention.sliding_window").write)
