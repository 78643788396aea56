"""BERT, and what is stored as BERT: RoBERTa, DistilBERT."""

from __future__ import annotations

from quantload_gguf.architectures.common import EPSILON, MLP_WIDTH, SIZES
from quantload_gguf.architectures.facts import Facts
from quantload_gguf.architectures.table import Architecture, Rule, Setting, number, rule, whole

_TYPES = "token_types.weight"
_TYPE_COUNT = "tokenizer.ggml.token_type_count"

_POSITIONS = Setting(
    lambda facts: facts.shape("position_embd.weight")[0], whole("context_length").write
)


def _layers(
    layer: str, attention: tuple[str, str, str, str, str], mlp: tuple[str, str, str]
) -> tuple[Rule, ...]:
    """The rules of a layer, whose modules have one name or another.

    Args:
        layer: beginning of the names.
        attention: query, key, value, output, and the norm after them.
        mlp: first and second matrix, and the norm after them.
    """
    names = [f"attn_{part}" for part in ("q", "k", "v", "output", "output_norm")]
    names += ["ffn_up", "ffn_down", "layer_output_norm"]
    return tuple(
        rule(f"{layer}.{module}", f"blk.{{i}}.{name}")
        for module, name in zip((*attention, *mlp), names, strict=True)
    )


_ENDS = (
    rule("embeddings.word_embeddings", "token_embd"),
    rule("embeddings.position_embeddings", "position_embd"),
    rule("embeddings.LayerNorm", "token_embd_norm"),
)


BERT = Architecture(
    "bert",
    "BertModel",
    {
        "vocab_size": SIZES["vocab_size"],
        "hidden_size": SIZES["hidden_size"],
        "num_hidden_layers": SIZES["num_hidden_layers"],
        "num_attention_heads": SIZES["num_attention_heads"],
        "intermediate_size": MLP_WIDTH,
        "max_position_embeddings": _POSITIONS,
        "type_vocab_size": Setting(
            lambda facts: facts.shape(_TYPES)[0], lambda v, _, keys: keys.put(_TYPE_COUNT, v)
        ),
        "layer_norm_eps": number(EPSILON),
        "hidden_act": "gelu",
    },
    (
        *_ENDS,
        rule("embeddings.token_type_embeddings", "token_types"),
        *_layers(
            "encoder.layer.{i}",
            (
                *("attention.self.query", "attention.self.key", "attention.self.value"),
                *("attention.output.dense", "attention.output.LayerNorm"),
            ),
            ("intermediate.dense", "output.dense", "output.LayerNorm"),
        ),
    ),
    # Converters leave the pooler out: the model ends in the hidden states.
    options={"add_pooling_layer": False},
    left_out=("pooler.",),
    constants={"attention.causal": False},
)


DISTILBERT = Architecture(
    "distilbert",
    "DistilBertModel",
    {
        "vocab_size": SIZES["vocab_size"],
        "dim": SIZES["hidden_size"],
        "n_layers": SIZES["num_hidden_layers"],
        "n_heads": SIZES["num_attention_heads"],
        "hidden_dim": MLP_WIDTH,
        "max_position_embeddings": _POSITIONS,
        "activation": "gelu",
    },
    (
        *_ENDS,
        *_layers(
            "transformer.layer.{i}",
            (
                *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
                "sa_layer_norm",
            ),
            ("ffn.lin1", "ffn.lin2", "output_layer_norm"),
        ),
    ),
    constants={"attention.causal": False, EPSILON: 1e-12, _TYPE_COUNT: 1},
)


def stored_as_bert(facts: Facts) -> Architecture:
    """Which of them a file holds that says BERT: DistilBERT has no types of texts."""
    return BERT if facts.has(_TYPES) else DISTILBERT
