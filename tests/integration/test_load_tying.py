"""Ties of `transformers` models against what the checkpoint holds, now and when tied again."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import quantload
from quantload.modules import QuantizedEmbedding, QuantizedLinear

sys.path.insert(0, str(Path(__file__).parents[1] / "core" / "loading"))
from rowwise import RowwiseConfig, RowwiseQuantizer, rowwise_decoded, rowwise_tensors

IDS = torch.arange(16).reshape(2, 8) + 3
METHOD = {"quant_method": "rowwise"}
HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(autouse=True)
def rowwise() -> Iterator[None]:
    with quantload.register("rowwise", config=RowwiseConfig, quantizer=RowwiseQuantizer):
        yield


@pytest.fixture
def original(tmp_path: Path) -> Any:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=99,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            tie_word_embeddings=True,
        )
    ).eval()
    model.save_pretrained(tmp_path)
    return model


def rewrite(folder: Path, change: Any, config: dict[str, Any] | None = None) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    if config is not None:
        text = (folder / "config.json").read_text().rstrip().removesuffix("}")
        found = str(config).replace("'", '"')
        (folder / "config.json").write_text(f'{text}, "quantization_config": {found}}}')


def test_a_float_tie(original: Any, tmp_path: Path) -> None:
    model = quantload.load_model(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.all_tied_weights_keys == {HEAD: EMBED}
    model.tie_weights()
    assert torch.equal(model(IDS).logits, original(IDS).logits)


def test_different_tensors_stay_apart_when_tied_again(original: Any, tmp_path: Path) -> None:
    rewrite(tmp_path, lambda t: t.update({HEAD: torch.ones(99, 32)}))
    model = quantload.load_model(tmp_path)
    assert not model.config.tie_word_embeddings
    model.tie_weights()
    assert torch.equal(model.lm_head.weight, torch.ones(99, 32))
    assert torch.equal(model.model.embed_tokens.weight, original.model.embed_tokens.weight)
    quantload.save_model(model, tmp_path / "again")
    again = quantload.load_model(tmp_path / "again")
    assert torch.equal(again.lm_head.weight, torch.ones(99, 32))


def test_equal_tensors_are_tied(original: Any, tmp_path: Path) -> None:
    rewrite(tmp_path, lambda t: t.update({HEAD: t[EMBED].clone()}))
    model = quantload.load_model(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.tie_word_embeddings


def test_a_packed_head_beside_a_float_embedding(original: Any, tmp_path: Path) -> None:
    rewrite(tmp_path, lambda t: t.update(rowwise_tensors("lm_head", t[EMBED])), METHOD)
    model = quantload.load_model(tmp_path)
    for _ in range(2):
        assert isinstance(model.lm_head, QuantizedLinear)
        assert torch.equal(
            model.lm_head.weight.dequantize(), rowwise_decoded(original.lm_head.weight)
        )
        assert type(model.model.embed_tokens) is nn.Embedding
        model.tie_weights()
    assert not model.config.tie_word_embeddings


def packed_embedding(tensors: dict[str, torch.Tensor]) -> None:
    tensors |= rowwise_tensors("model.embed_tokens", tensors.pop(EMBED))


def test_a_packed_embedding_and_its_head(original: Any, tmp_path: Path) -> None:
    rewrite(tmp_path, packed_embedding, METHOD)
    model = quantload.load_model(tmp_path)
    with torch.no_grad():
        original.lm_head.weight.copy_(rowwise_decoded(original.lm_head.weight))
    for _ in range(2):
        assert isinstance(model.model.embed_tokens, QuantizedEmbedding)
        assert isinstance(model.lm_head, QuantizedLinear)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert torch.equal(model(IDS).logits, original(IDS).logits)
        model.tie_weights()
    twin = copy.deepcopy(model)
    assert twin.lm_head.weight is twin.model.embed_tokens.weight
    assert torch.equal(twin(IDS).logits, model(IDS).logits)
    quantload.save_model(model, tmp_path / "again")
    one = load_file(tmp_path / "again" / "model.safetensors")
    other = load_file(tmp_path / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    floated = quantload.dequantize(model)
    assert floated.lm_head.weight is floated.model.embed_tokens.weight
    assert torch.equal(floated(IDS).logits, original(IDS).logits)
    floated.save_pretrained(tmp_path / "float")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "float")
    assert torch.equal(again(IDS).logits, original(IDS).logits)


def test_the_footprint_counts_a_shared_weight_once(original: Any, tmp_path: Path) -> None:
    rewrite(tmp_path, packed_embedding, METHOD)
    model = quantload.load_model(tmp_path)
    weights = {id(p): p.nbytes for p in model.parameters()}
    buffers = sum(b.nbytes for b in model.buffers())
    assert model.get_memory_footprint() == sum(weights.values()) + buffers
    assert model.lm_head.weight.nbytes == 99 * 32 + 99 * 4


def test_one_of_several_ties_is_packed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 99, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 1}
    original = T5ForConditionalGeneration(T5Config(**sizes, num_heads=4)).eval()
    original.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t.update(rowwise_tensors("lm_head", t["shared.weight"])), METHOD)
    model = quantload.load_model(tmp_path)
    for _ in range(2):
        assert isinstance(model.lm_head, QuantizedLinear)
        assert model.encoder.embed_tokens.weight is model.shared.weight
        assert model.decoder.embed_tokens.weight is model.shared.weight
        assert torch.equal(model.shared.weight, original.shared.weight)
        model.tie_weights()
    assert model.config.tie_word_embeddings
