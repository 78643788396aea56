"""Config classes of `transformers`, of quantload, and dicts, through every door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from methods import METHODS, logits_of
from transformers import AutoModelForCausalLM
from transformers.quantizers import AutoHfQuantizer
from transformers.quantizers.auto import AutoQuantizationConfig

import quantload
from quantload.modules import QuantizedLinear

FOREIGN: dict[str, Any] = {
    "nf4": transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "int8": transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0),
    "gptq": transformers.GPTQConfig(bits=4, group_size=128, desc_act=False),
    "awq": transformers.AwqConfig(bits=4, group_size=128, version="gemm"),
    "aqlm": transformers.AqlmConfig(),
}
OWN = {
    "nf4": lambda: quantload.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "gptq": lambda: quantload.GPTQConfig(bits=4, group_size=32),
    "awq": lambda: quantload.AwqConfig(bits=4, group_size=32),
}


@pytest.mark.parametrize("method", FOREIGN)
def test_classes_of_transformers_go_with_a_packed_folder(
    method: str, packed: Callable[[str], Path]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        packed(method), quantization_config=FOREIGN[method]
    )
    assert isinstance(model.model.layers[0].mlp.up_proj, QuantizedLinear)
    stored = AutoQuantizationConfig.from_pretrained(packed(method))
    for field in ("bits", "group_size", "num_codebooks", "bnb_4bit_use_double_quant"):
        found = getattr(model.config.quantization_config, field, None)
        assert found == getattr(stored, field, None)


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_classes_of_transformers_quantize_on_load(method: str, tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, quantization_config=FOREIGN[method])
    assert isinstance(model.model.layers[0].mlp.up_proj, QuantizedLinear)


@pytest.mark.parametrize("method", OWN)
def test_classes_of_quantload_go_everywhere(
    method: str, tiny: Path, packed: Callable[[str], Path]
) -> None:
    for folder in (tiny, packed(method)):
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=OWN[method]())
        assert isinstance(model.model.layers[0].mlp.up_proj, QuantizedLinear)


@pytest.mark.parametrize("method", METHODS)
def test_the_config_class_of_a_method_quantizes_as_its_dict(
    method: str, tiny: Path, packed: Callable[[str], Path], ids: torch.Tensor
) -> None:
    config = quantload.AutoQuantizationConfig.from_dict(METHODS[method])
    model = AutoModelForCausalLM.from_pretrained(tiny, quantization_config=config)
    assert torch.equal(logits_of(model, ids), logits_of(quantload.load_model(packed(method)), ids))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_resolves(method: str, packed: Callable[[str], Path]) -> None:
    config = AutoQuantizationConfig.from_dict(METHODS[method])
    by_config = AutoHfQuantizer.from_config(config, pre_quantized=False)
    by_dict = AutoHfQuantizer.from_config(METHODS[method], pre_quantized=False)
    by_folder = AutoHfQuantizer.from_pretrained(packed(method))
    for quantizer in (by_config, by_dict, by_folder):
        assert quantizer.quant_method == config.quant_method
        assert quantizer.is_available()
        assert isinstance(quantizer, transformers.quantizers.HfQuantizer)


def test_methods_registered_while_it_is_on_are_served(tiny: Path) -> None:
    from toy8.plugin import PLUGIN

    with quantload.register("latecomer", PLUGIN):
        assert AutoHfQuantizer.supports_quant_method({"quant_method": "latecomer"})
        assert "latecomer" in transformers.quantizers.auto.AUTO_QUANTIZER_MAPPING
    with pytest.raises(quantload.UnknownMethodError):
        AutoHfQuantizer.supports_quant_method({"quant_method": "latecomer"})
    assert "latecomer" not in transformers.quantizers.auto.AUTO_QUANTIZER_MAPPING


def test_a_kept_method_is_that_of_transformers(tiny: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with quantload.enable_transformers(keep="bitsandbytes"):
        model = AutoModelForCausalLM.from_pretrained(tiny, quantization_config=FOREIGN["int8"])
    kind = type(model.model.layers[0].mlp.up_proj)
    assert kind.__module__.startswith("bitsandbytes.")
    assert model.hf_quantizer.quant_method == "bitsandbytes"


def test_the_compute_dtype_may_be_changed_while_loading(packed: Callable[[str], Path]) -> None:
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(packed("nf4"), quantization_config=config)
    assert model.config.quantization_config.bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("gptq", {"quant_method": "gptq"}),
        ("gptq", {"bits": 4}),
        ("gptq", {"quant_method": "gptq", "wbits": 4}),
        ("aqlm", {"quant_method": "aqlm"}),
        ("toy8", {}),
    ],
)
def test_a_dict_may_leave_out_what_the_checkpoint_says(
    method: str, said: dict[str, Any], packed: Callable[[str], Path]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(packed(method), quantization_config=said)
    stored = AutoQuantizationConfig.from_pretrained(packed(method))
    assert model.config.quantization_config == stored


def test_a_dict_changes_what_may_be_changed_and_nothing_else(
    packed: Callable[[str], Path],
) -> None:
    said = {"llm_int8_threshold": 3.0}
    model = AutoModelForCausalLM.from_pretrained(packed("int8"), quantization_config=said)
    assert model.config.quantization_config.llm_int8_threshold == 3.0
    assert model.config.quantization_config.load_in_8bit
    with pytest.raises(quantload.ConfigError, match="bits: the checkpoint says 4"):
        AutoModelForCausalLM.from_pretrained(packed("gptq"), quantization_config={"bits": 8})
    with pytest.raises(quantload.UnknownMethodError, match="nonsense"):
        AutoModelForCausalLM.from_pretrained(packed("gptq"), quantization_config={"nonsense": 1})
