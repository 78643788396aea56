"""`save_pretrained` of what `load_model` made: with the bridge it works, without it says so."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from methods import METHODS
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
    for options in ({"state_dict": {"x": torch.ones(1)}}, {"push_to_hub": True}, {"variant": "a"}):
        with pytest.raises(quantload.UnsupportedOperationError, match=next(iter(options))):
            model.save_pretrained(tmp_path / "other", **options)


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
