"""Other classes than a causal Llama: encoders, encoder-decoders, heads, experts, GPT-2's layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from methods import METHODS, TINY
from safetensors.torch import load_file
from torch import Tensor

import quantload

SMALL = {"vocab_size": 320}
BERT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
BART = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
}
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        "AutoModelForCausalLM",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "AutoModelForSeq2SeqLM",
        {**T5, "decoder_start_token_id": 0},
    ),
    "bart": ("BartForConditionalGeneration", "AutoModelForSeq2SeqLM", BART),
    "bert": (
        "BertForSequenceClassification",
        "AutoModelForSequenceClassification",
        {**BERT, "num_labels": 3},
    ),
    "llama classes": (
        "LlamaForSequenceClassification",
        "AutoModelForSequenceClassification",
        {**TINY, "num_labels": 3},
    ),
    "tied": ("LlamaForCausalLM", "AutoModelForCausalLM", {**TINY, "tie_word_embeddings": True}),
    "mamba": (  # multiplies with a weight, `weight @ x`
        "MambaForCausalLM",
        "AutoModelForCausalLM",
        {"hidden_size": 512, "num_hidden_layers": 1, "state_size": 8},
    ),
    "mixtral": ("MixtralForCausalLM", "AutoModelForCausalLM", {**TINY, "num_local_experts": 4}),
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            cls, _, settings = MODELS[name]
            torch.manual_seed(0)
            kind = getattr(transformers, cls)
            made[name] = tmp_path_factory.mktemp("float")
            kind(kind.config_class(**{**SMALL, **settings})).save_pretrained(made[name])
        return made[name]

    return make


def _logits(model: Any, ids: Tensor) -> Tensor:
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        found: Tensor = model(ids, **more).logits
    return found


def _cases() -> list[Any]:
    """Three methods with every class here; the others with two, and with the rest if asked."""
    quick = {(n, m) for n in MODELS for m in ("nf4", "gptq", "gguf")}
    quick |= {(name, method) for name in ("t5", "bert") for method in METHODS}
    return [
        pytest.param(n, m, marks=() if (n, m) in quick else pytest.mark.slow)
        for n in MODELS
        for m in METHODS
    ]


@pytest.mark.parametrize(("name", "method"), _cases())
def test_a_class_loads_saves_and_loads_again(
    name: str, method: str, folder_of: Callable[[str], Path], ids: Tensor, tmp_path: Path
) -> None:
    folder, auto = folder_of(name), getattr(transformers, MODELS[name][1])
    config = METHODS[method]
    model = auto.from_pretrained(folder, quantization_config=config)
    direct = quantload.load_model(folder, quantization_config=config, model_class=auto)
    logits = _logits(model, ids)
    assert torch.equal(logits, _logits(direct, ids))
    assert model.get_memory_footprint() == direct.get_memory_footprint()
    model.save_pretrained(tmp_path / "bridge")
    quantload.save_model(direct, tmp_path / "direct", max_shard_size="1GB")
    mine = load_file(tmp_path / "bridge" / "model.safetensors")
    assert mine.keys() == load_file(tmp_path / "direct" / "model.safetensors").keys()
    again = auto.from_pretrained(tmp_path / "bridge")
    assert torch.equal(_logits(again, ids), logits)
    if not isinstance(again, transformers.PreTrainedModel) or not again.can_generate():
        return
    settings = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(again.generate(ids, **settings), direct.generate(ids, **settings))


def test_a_head_that_the_checkpoint_does_not_claim_is_initialised(
    tiny: Path, packed: Callable[[str], Path], ids: Tensor
) -> None:
    whole = transformers.AutoModelForCausalLM.from_pretrained(packed("gptq"))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        packed("gptq"), num_labels=3
    )
    with torch.no_grad():
        assert torch.equal(model.model(ids)[0], whole.model(ids)[0])
    assert 0.001 < model.score.weight.std() < 0.1
    base = transformers.AutoModel.from_pretrained(packed("gptq"))
    with torch.no_grad():
        assert torch.equal(base(ids)[0], whole.model(ids)[0])
    fresh = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny, num_labels=3, quantization_config=METHODS["nf4"]
    )
    assert type(fresh.score) is torch.nn.Linear


def test_the_config_is_found_without_the_model(packed: Callable[[str], Path]) -> None:
    config = transformers.AutoConfig.from_pretrained(packed("awq"))
    assert config.quantization_config["quant_method"] == "awq"
    model = transformers.AutoModelForCausalLM.from_pretrained(packed("awq"), config=config)
    again = transformers.AutoModelForCausalLM.from_pretrained(packed("awq"), config=model.config)
    assert again.config.quantization_config == model.config.quantization_config
