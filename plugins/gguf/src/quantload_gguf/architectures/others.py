"""Phi-3, Falcon, GPT-2, StarCoder2, StableLM and Command-R."""

from __future__ import annotations

from typing import Any

from quantload_gguf.architectures.common import (
    ENDS,
    EPSILON,
    FREQUENCIES,
    GATED_MLP,
    LAYER,
    LLAMA_LIKE,
    MLP_WIDTH,
    QK_NORMS,
    QUERY_BIAS,
    SIZES,
    SLIDING_WINDOW,
    TWO_NORMS,
    attention,
)
from quantload_gguf.architectures.facts import Facts
from quantload_gguf.architectures.keys import Keys
from quantload_gguf.architectures.rope import ROPE, rope_parameters, write_rope
from quantload_gguf.architectures.table import (
    Architecture,
    Setting,
    absent,
    number,
    present,
    rule,
    whole,
)
from quantload_gguf.architectures.transforms import EachRow, FalconGroups, Turned


def _partial_rope(facts: Facts) -> dict[str, Any]:
    """Rotary embedding of a part of each head."""
    share = facts.whole("rope.dimension_count", facts.head_dim) / facts.head_dim
    return {**rope_parameters(facts), "partial_rotary_factor": share}


def _write_partial_rope(value: Any, config: Any, keys: Keys) -> None:
    width = config.hidden_size // config.num_attention_heads
    keys.whole("rope.dimension_count", int(value.get("partial_rotary_factor", 1.0) * width))
    write_rope(value, config, keys)


_PARTIAL_ROPE = Setting(_partial_rope, _write_partial_rope)


def _first_context(facts: Facts) -> int:
    return int(facts.whole("rope.scaling.original_context_length", facts.whole("context_length")))


PHI3 = Architecture(
    "phi3",
    "Phi3ForCausalLM",
    {
        **{key: value for key, value in LLAMA_LIKE.items() if key != "head_dim"},
        "rope_parameters": _PARTIAL_ROPE,
        "original_max_position_embeddings": Setting(
            _first_context, whole("rope.scaling.original_context_length").write
        ),
        "sliding_window": SLIDING_WINDOW,
        "hidden_act": "silu",
    },
    (
        *ENDS,
        *TWO_NORMS,
        rule(f"{LAYER}.self_attn.qkv_proj", "blk.{i}.attn_qkv"),
        rule(f"{LAYER}.self_attn.o_proj", "blk.{i}.attn_output"),
        rule(f"{LAYER}.mlp.gate_up_proj", "blk.{i}.ffn_up"),
        rule(f"{LAYER}.mlp.down_proj", "blk.{i}.ffn_down"),
    ),
    FREQUENCIES,
)


def _write_falcon_heads(value: Any, config: Any, keys: Keys) -> None:
    grouped = config.new_decoder_architecture
    keys.whole("attention.head_count_kv", value if grouped or not config.multi_query else 1)


_FALCON = "transformer.h.{i}"
_SECOND = "blk.{i}.attn_norm_2.weight"
FALCON = Architecture(
    "falcon",
    "FalconForCausalLM",
    {
        "vocab_size": SIZES["vocab_size"],
        "hidden_size": SIZES["hidden_size"],
        "num_hidden_layers": SIZES["num_hidden_layers"],
        "num_attention_heads": SIZES["num_attention_heads"],
        "num_kv_heads": Setting(lambda facts: facts.kv_heads, _write_falcon_heads),
        "ffn_hidden_size": MLP_WIDTH,
        "max_position_embeddings": SIZES["max_position_embeddings"],
        "tie_word_embeddings": SIZES["tie_word_embeddings"],
        "layer_norm_epsilon": number(EPSILON),
        "rope_parameters": ROPE,
        "new_decoder_architecture": Setting(lambda facts: facts.kv_heads != 1),
        "multi_query": Setting(lambda facts: facts.kv_heads == 1),
        "num_ln_in_parallel_attn": Setting(lambda f: 1 + f.has("blk.0.attn_norm_2.weight")),
        "parallel_attn": True,
        "alibi": False,
        "bias": present("blk.0.attn_qkv.bias"),
    },
    (
        rule("transformer.word_embeddings", "token_embd"),
        rule("transformer.ln_f", "output_norm"),
        rule("lm_head", "output"),
        rule(f"{_FALCON}.self_attention.query_key_value", "blk.{i}.attn_qkv", how=FalconGroups()),
        rule(f"{_FALCON}.self_attention.dense", "blk.{i}.attn_output"),
        rule(f"{_FALCON}.mlp.dense_h_to_4h", "blk.{i}.ffn_up"),
        rule(f"{_FALCON}.mlp.dense_4h_to_h", "blk.{i}.ffn_down"),
        # With two norms the file's first one is that of the MLP.
        rule(f"{_FALCON}.ln_attn", "blk.{i}.attn_norm_2"),
        rule(f"{_FALCON}.ln_mlp", "blk.{i}.attn_norm", needs=_SECOND),
        rule(f"{_FALCON}.input_layernorm", "blk.{i}.attn_norm", excludes=_SECOND),
    ),
    FREQUENCIES,
    constants={"tensor_data_layout": "jploski"},
)

_GPT2 = "transformer.h.{i}"
GPT2 = Architecture(
    "gpt2",
    "GPT2LMHeadModel",
    {
        "vocab_size": SIZES["vocab_size"],
        "n_positions": whole("context_length"),
        "n_embd": whole("embedding_length"),
        "n_layer": whole("block_count"),
        "n_head": SIZES["num_attention_heads"],
        "n_inner": Setting(
            MLP_WIDTH.read,
            lambda value, c, keys: keys.whole("feed_forward_length", value or 4 * c.n_embd),
        ),
        "layer_norm_epsilon": number(EPSILON),
        "activation_function": "gelu_new",
        "tie_word_embeddings": absent("output.weight"),
    },
    (
        rule("transformer.wte", "token_embd"),
        rule("transformer.wpe", "position_embd"),
        rule("transformer.ln_f", "output_norm"),
        rule("lm_head", "output"),
        rule(f"{_GPT2}.ln_1", "blk.{i}.attn_norm"),
        rule(f"{_GPT2}.attn.c_attn", "blk.{i}.attn_qkv", how=Turned()),
        rule(f"{_GPT2}.attn.c_proj", "blk.{i}.attn_output", how=Turned()),
        rule(f"{_GPT2}.ln_2", "blk.{i}.ffn_norm"),
        rule(f"{_GPT2}.mlp.c_fc", "blk.{i}.ffn_up", how=Turned()),
        rule(f"{_GPT2}.mlp.c_proj", "blk.{i}.ffn_down", how=Turned()),
    ),
)

STARCODER2 = Architecture(
    "starcoder2",
    "Starcoder2ForCausalLM",
    {
        **SIZES,
        "norm_epsilon": number(EPSILON),
        "rope_parameters": ROPE,
        "sliding_window": SLIDING_WINDOW,
        "use_bias": present(*QUERY_BIAS),
        "hidden_act": "gelu_pytorch_tanh",
    },
    (
        *ENDS,
        *TWO_NORMS,
        *attention(),
        rule(f"{LAYER}.mlp.c_fc", "blk.{i}.ffn_up"),
        rule(f"{LAYER}.mlp.c_proj", "blk.{i}.ffn_down"),
    ),
    FREQUENCIES,
)

STABLELM = Architecture(
    "stablelm",
    "StableLmForCausalLM",
    {
        **SIZES,
        "layer_norm_eps": number(EPSILON),
        "rope_parameters": _PARTIAL_ROPE,
        "use_qkv_bias": present(*QUERY_BIAS),
        "qk_layernorm": present("blk.0.attn_q_norm.weight"),
        "use_parallel_residual": Setting(
            absent("blk.0.ffn_norm.weight").read,
            lambda value, _, keys: keys.flag("use_parallel_residual", value),
        ),
        "hidden_act": "silu",
    },
    (
        *ENDS,
        *TWO_NORMS,
        *attention(),
        *GATED_MLP,
        rule(f"{LAYER}.self_attn.q_layernorm.norms.{{e}}", "blk.{i}.attn_q_norm", how=EachRow()),
        rule(f"{LAYER}.self_attn.k_layernorm.norms.{{e}}", "blk.{i}.attn_k_norm", how=EachRow()),
    ),
    FREQUENCIES,
)

COMMAND_R = Architecture(
    "cohere",
    "CohereForCausalLM",
    {
        **SIZES,
        "layer_norm_eps": number(EPSILON),
        "logit_scale": number("logit_scale"),
        "rope_parameters": ROPE,
        "use_qk_norm": present("blk.0.attn_q_norm.weight"),
        "attention_bias": present(*QUERY_BIAS),
        "hidden_act": "silu",
    },
    (
        *ENDS,
        rule(f"{LAYER}.input_layernorm", "blk.{i}.attn_norm"),
        *attention(),
        *GATED_MLP,
        *QK_NORMS,
    ),
    FREQUENCIES,
)
