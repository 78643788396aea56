"""`save_pretrained` of what `load_model` made: with the bridge it works, without it says so."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from methods import METHODS, TINY, same
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import quantload


@pytest.mark.parametrize("method", METHODS)
def test_it_writes_what_save_model_writes(
    method: str, packed: Callable[[str], Path], ids: Tensor, tmp_path: Path
) -> None:
    model = quantload.load_model(packed(method))
    model.save_pretrained(tmp_path / "one")
    quantload.save_model(model, tmp_path / "two", max_shard_size="50GB")
    for folder in ("one", "two"):
        names = {file.name for file in (tmp_path / folder).iterdir()}
        assert {"config.json", "model.safetensors"} <= names
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)


def test_options_are_followed_or_refused(packed: Callable[[str], Path], tmp_path: Path) -> None:
    model = quantload.load_model(packed("gptq"))
    model.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()
    for options in ({"push_to_hub": True}, {"variant": "a"}):
        with pytest.raises(quantload.UnsupportedOperationError, match=next(iter(options))):
            model.save_pretrained(tmp_path / "other", **options)


LOADERS: dict[str, Callable[[Path], Any]] = {
    "bridge": AutoModelForCausalLM.from_pretrained,
    "load_model": quantload.load_model,
}
each_loader = pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)


@each_loader
@pytest.mark.parametrize("method", METHODS)
def test_a_state_dict_of_the_model_is_what_is_written(
    method: str, load: Callable[[Path], Any], packed: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load(packed(method))
    held = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "same", state_dict=held)
    stored = load_file(packed(method) / "model.safetensors")
    assert same(load_file(tmp_path / "same" / "model.safetensors"), stored)

    other = load(packed(method))
    for name, tensor in held.items():
        if name.endswith("norm.weight") or name.startswith("model.layers.1.mlp.up_proj.weight."):
            held[name] = tensor.flip(0)
    other.load_state_dict(held)
    other.save_pretrained(tmp_path / "loaded")
    model.save_pretrained(tmp_path / "given", state_dict=held)
    given = load_file(tmp_path / "given" / "model.safetensors")
    assert same(given, load_file(tmp_path / "loaded" / "model.safetensors"))
    assert not same(given, stored)
    model.save_pretrained(tmp_path / "after")  # the model was given its own back
    assert same(load_file(tmp_path / "after" / "model.safetensors"), stored)


@each_loader
def test_a_state_dict_of_something_else_is_refused(
    load: Callable[[Path], Any], packed: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load(packed("gptq"))
    held = model.state_dict()
    part = {name: tensor for name, tensor in held.items() if "norm" in name}
    small = {**held, "model.norm.weight": torch.ones(3)}
    named = load_file(packed("gptq") / "model.safetensors")
    for wrong, told in (
        (part, r"missing: model\.embed_tokens\.weight"),
        (small, r"model\.norm\.weight: expected \[128\].*found \[3\]"),
        (named, r"unknown: .*qweight"),
    ):
        with pytest.raises(quantload.UnsupportedOperationError, match=told):
            model.save_pretrained(tmp_path / "other", state_dict=wrong)


def test_one_name_of_what_is_tied_is_enough(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**TINY, tie_word_embeddings=True)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "float")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "float", quantization_config=METHODS["int8"]
    )
    held = {n: t for n, t in model.state_dict().items() if not n.startswith("lm_head.")}
    model.save_pretrained(tmp_path / "given", state_dict=held)
    model.save_pretrained(tmp_path / "plain")
    given, plain = (load_file(tmp_path / f / "model.safetensors") for f in ("given", "plain"))
    assert same(given, plain)


def test_a_copy_saves_itself(packed: Callable[[str], Path], tmp_path: Path) -> None:
    model = quantload.load_model(packed("gptq"))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            twin.model.norm.weight.fill_(3.0)
        twin.save_pretrained(tmp_path)
        assert (load_file(tmp_path / "model.safetensors")["model.norm.weight"] == 3).all()


def test_it_does_not_keep_the_model_alive(packed: Callable[[str], Path]) -> None:
    model = quantload.load_model(packed("gptq"))
    gone = weakref.ref(model.lm_head)
    gc.disable()
    try:
        del model
        freed = gone() is None
    finally:
        gc.enable()
    assert freed


def test_a_dequantized_model_is_saved_by_transformers(
    packed: Callable[[str], Path], tmp_path: Path
) -> None:
    floated = quantload.dequantize(quantload.load_model(packed("nf4")))
    floated.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    assert held["model.layers.0.mlp.up_proj.weight"].is_floating_point()
