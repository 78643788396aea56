"""What people do with a model once it is loaded: pipelines, generation, compilation, copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from methods import METHODS
from torch import Tensor
from transformers import AutoModelForCausalLM

import quantload

GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}


@pytest.mark.parametrize("method", METHODS)
def test_a_static_cache_changes_no_token(
    method: str, packed: Callable[[str], Path], ids: Tensor
) -> None:
    model = AutoModelForCausalLM.from_pretrained(packed(method))
    plain = quantload.load_model(packed(method)).generate(ids, **GREEDY)
    assert torch.equal(model.generate(ids, **GREEDY), plain)
    assert torch.equal(model.generate(ids, cache_implementation="static", **GREEDY), plain)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_decode_step_changes_no_token(
    method: str, packed: Callable[[str], Path], ids: Tensor
) -> None:
    torch._dynamo.reset()  # its limit of recompilations is that of a process
    model = AutoModelForCausalLM.from_pretrained(packed(method))
    plain = model.generate(ids, **GREEDY)
    assert model.hf_quantizer.is_compileable
    model.forward = torch.compile(model.forward, fullgraph=True)
    compiled = model.generate(ids, cache_implementation="static", **GREEDY)
    assert torch.equal(compiled, plain)


def test_a_text_generation_pipeline(demo_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(demo_model, quantization_config=METHODS["nf4"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_model)
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    (said,) = pipe("def main():", **GREEDY)
    direct = quantload.load_model(demo_model, quantization_config=METHODS["nf4"])
    expected = direct.generate(**tokenizer("def main():", return_tensors="pt"), **GREEDY)
    assert said["generated_text"] == tokenizer.decode(expected[0], skip_special_tokens=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_pipeline_loads_a_folder_itself(method: str, demo_model: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(demo_model, quantization_config=METHODS[method])
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(demo_model).save_pretrained(tmp_path)
    pipe = transformers.pipeline("text-generation", model=str(tmp_path), device_map="auto")
    assert pipe.model.is_quantized
    assert pipe("import ", **GREEDY)[0]["generated_text"].startswith("import ")


def test_a_copy_computes_the_same(packed: Callable[[str], Path], ids: Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(packed("awq"))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(twin(ids).logits, model(ids).logits)


def test_saving_after_running_gives_the_same_bytes(
    packed: Callable[[str], Path], ids: Tensor, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    model = AutoModelForCausalLM.from_pretrained(packed("nf4"))
    for _ in range(3):
        model(ids)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    written: dict[str, Tensor] = {}
    for file in tmp_path.glob("*.safetensors"):
        written |= load_file(file)
    before = load_file(packed("nf4") / "model.safetensors")
    assert written.keys() == before.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in before.items())
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
