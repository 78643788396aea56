"""The demo model in NF4 through the bridge: quantized on load, saved, loaded again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import quantload
from quantload.modules import QuantizedLinear

IDS = torch.arange(24).reshape(2, 12)


def test_nf4_of_the_demo_model_there_and_back(demo_model: Path, tmp_path: Path) -> None:
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    model = AutoModelForCausalLM.from_pretrained(demo_model, quantization_config=config)
    direct = quantload.load_model(demo_model, quantization_config=config)
    logits = model(IDS).logits
    assert torch.equal(logits, direct(IDS).logits)
    assert isinstance(model.model.layers[0].mlp.up_proj, QuantizedLinear)
    assert model.get_memory_footprint() == direct.get_memory_footprint()
    assert model.is_quantized
    assert model.quantization_method == transformers.utils.quantization_config.QuantizationMethod(
        "bitsandbytes"
    )
    assert model.hf_quantizer.quant_method == "bitsandbytes"

    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(IDS).logits, logits)
    assert torch.equal(quantload.load_model(tmp_path)(IDS).logits, logits)

    floated = again.dequantize()
    assert not floated.is_quantized
    assert type(floated.model.layers[0].mlp.up_proj) is torch.nn.Linear


def test_an_unknown_method_is_an_error(tiny: Path) -> None:
    with pytest.raises(quantload.UnknownMethodError, match="nonesuch"):
        AutoModelForCausalLM.from_pretrained(tiny, quantization_config={"quant_method": "nonesuch"})
