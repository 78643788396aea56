"""Every method through `from_pretrained`, as `load_model` does it, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from methods import METHODS, logits_of, same
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.utils.quantization_config import QuantizationMethod

import quantload
from quantload.modules import hosts_of

each_method = pytest.mark.parametrize("method", METHODS)


@each_method
def test_quantizing_on_load_gives_the_model_of_load_model(
    method: str, tiny: Path, ids: Tensor
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, quantization_config=METHODS[method])
    direct = quantload.load_model(tiny, quantization_config=METHODS[method])
    assert torch.equal(logits_of(model, ids), logits_of(direct, ids))
    assert {n: type(h.weight) for n, h in hosts_of(model)} == {
        n: type(h.weight) for n, h in hosts_of(direct)
    }
    assert model.get_memory_footprint() == direct.get_memory_footprint()


@each_method
def test_a_packed_folder_loads_saves_and_loads_again(
    method: str, packed: Callable[[str], Path], ids: Tensor, tmp_path: Path
) -> None:
    folder = packed(method)
    model = AutoModelForCausalLM.from_pretrained(folder)
    direct = quantload.load_model(folder)
    logits = logits_of(model, ids)
    assert torch.equal(logits, logits_of(direct, ids))
    assert model.get_memory_footprint() == direct.get_memory_footprint()

    model.save_pretrained(tmp_path)
    assert same(load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors"))
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path), ids), logits)
    assert torch.equal(logits_of(quantload.load_model(tmp_path), ids), logits)


@each_method
def test_callers_find_what_they_look_for(method: str, packed: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(packed(method))
    name = model.hf_quantizer.quant_method
    assert model.is_quantized
    assert model.quantization_method == name
    if name in {known.value for known in QuantizationMethod} - {"hqq"}:  # whose enum imports it
        assert isinstance(model.quantization_method, QuantizationMethod)
    assert isinstance(model.hf_quantizer, transformers.quantizers.HfQuantizer)
    assert model.hf_quantizer.is_available()
    assert model.hf_quantizer.is_serializable()
    assert model.config.quantization_config.quant_method == name
    assert model.config.to_dict()["quantization_config"]["quant_method"] == name


@each_method
def test_dequantize_gives_the_float_model(
    method: str, packed: Callable[[str], Path], ids: Tensor, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(packed(method))
    logits = logits_of(model, ids)
    floated = model.dequantize()
    assert not floated.is_quantized
    assert not hasattr(floated, "hf_quantizer")
    assert not hasattr(floated.config, "quantization_config")
    assert type(floated.model.layers[0].mlp.up_proj) is nn.Linear
    assert torch.allclose(logits_of(floated, ids), logits, atol=1e-2)
    floated.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits_of(again, ids), logits_of(floated, ids))


@each_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, "float16"])
def test_the_dtype_is_that_of_what_stays_float(
    method: str, dtype: Any, packed: Callable[[str], Path], ids: Tensor
) -> None:
    model = AutoModelForCausalLM.from_pretrained(packed(method), dtype=dtype)
    direct = quantload.load_model(packed(method), dtype=dtype)
    assert model.dtype == direct.dtype
    assert model.get_memory_footprint() == direct.get_memory_footprint()
    assert torch.equal(logits_of(model, ids), logits_of(direct, ids))


PLACES: dict[str, dict[str, Any]] = {
    "auto": {"device_map": "auto"},
    "one device": {"device_map": "cpu"},
    "disk": {
        "device_map": {
            "model.embed_tokens": "cpu",
            "model.layers.0": "disk",
            "model.layers.1": "cpu",
            "model.norm": "cpu",
            "model.rotary_emb": "cpu",
            "lm_head": "disk",
        }
    },
    "limits": {"device_map": "auto", "max_memory": {"cpu": "300KB"}},
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("source", ["packed", "float"])
@each_method
def test_device_maps_and_offload(
    method: str,
    source: str,
    where: str,
    packed: Callable[[str], Path],
    tiny: Path,
    ids: Tensor,
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {**PLACES[where], "offload_folder": tmp_path / "offload"}
    folder = packed(method) if source == "packed" else tiny
    if source == "float":
        options["quantization_config"] = METHODS[method]
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    away = {n for n, p in model.named_parameters() if p.is_meta}
    if where in ("disk", "limits"):
        assert any(name.startswith("model.layers.") and ".weight." in name for name in away)
        assert "disk" in model.hf_device_map.values()
        reference = quantload.load_model(packed(method), kernel="reference")
        assert torch.allclose(logits_of(model, ids), logits_of(reference, ids), atol=1e-5)
    else:
        assert not away
        assert torch.equal(
            logits_of(model, ids), logits_of(quantload.load_model(packed(method)), ids)
        )
    model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert same(saved, load_file(packed(method) / "model.safetensors"))
