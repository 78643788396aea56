"""The names of methods whose library `transformers` looks for by itself."""

from __future__ import annotations

import copy
import pickle

import pytest

pytest.importorskip("transformers")

from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.quantization_config import QuantizationMethod

from quantload.integrations.transformers.attributes import method_text


def test_moving_a_model_does_not_look_for_the_library_of_its_method():
    config = LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8
    )
    model = LlamaForCausalLM(config)
    model.quantization_method = method_text("hqq")
    assert model.to("cpu") is model
    assert copy.deepcopy(model).to(device="cpu").quantization_method == "hqq"


def test_it_is_the_name_to_everybody_else():
    name = method_text("hqq")
    assert name == "hqq"
    assert name != "gptq"
    assert name != QuantizationMethod.HQQ
    assert {name: 1}["hqq"] == 1
    assert pickle.loads(pickle.dumps(name)) == "hqq"
    assert method_text("gptq") == QuantizationMethod.GPTQ
