"""The config takes every spelling in the wild and refuses contradictions."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from quantload import AutoHfQuantizer, AutoQuantizationConfig, BitsAndBytesConfig
from quantload.errors import ConfigError

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize(
    ("spelling", "method"),
    [
        ({"load_in_4bit": True}, "fp4"),
        ({"load_in_8bit": True}, "llm_int8"),
        ({"_load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4"),
        ({"quant_method": "bitsandbytes", "_load_in_8bit": True, "load_in_8bit": True}, "llm_int8"),
        ({"quant_method": "bitsandbytes", "_load_in_8bit": True}, "llm_int8"),
        ({"quant_method": "bitsandbytes_4bit"}, "fp4"),
        ({"quant_method": "bitsandbytes_8bit"}, "llm_int8"),
        ({"quant_method": "bitsandbytes_4bit", **NF4}, "nf4"),
        ({"quant_method": "bitsandbytes"}, None),
        ({**NF4, "bnb_4bit_compute_dtype": "torch.bfloat16"}, "nf4"),
    ],
)
def test_spellings(spelling: dict[str, Any], method: str | None) -> None:
    config = AutoQuantizationConfig.from_dict(spelling)
    assert isinstance(config, BitsAndBytesConfig)
    assert config.quant_method == "bitsandbytes"
    assert config.quantization_method() == method
    assert config.is_quantizable() is (method is not None)
    assert AutoHfQuantizer.from_config(spelling).quant_method == "bitsandbytes"


def test_defaults_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BitsAndBytesConfig(load_in_8bit=True).to_dict()
    theirs = {k: v for k, v in theirs.items() if not k.startswith("_")}
    mine = BitsAndBytesConfig(load_in_8bit=True).to_dict()
    assert mine == {**theirs, "quant_method": "bitsandbytes"}


@pytest.mark.parametrize(
    "settings",
    [
        {"load_in_8bit": True, "llm_int8_threshold": 4.5, "llm_int8_skip_modules": ["lm_head"]},
        {**NF4, "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_use_double_quant": True},
        {"load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"},
    ],
)
def test_transformers_and_we_read_each_others_configs(settings: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BitsAndBytesConfig(**settings)
    mine = AutoQuantizationConfig.from_dict(theirs)
    assert mine == BitsAndBytesConfig(**settings)
    back = transformers.BitsAndBytesConfig.from_dict(json.loads(mine.to_json_string(False)))
    assert back.to_dict() == theirs.to_dict()
    assert type(AutoHfQuantizer.from_config(theirs)).__name__ == "BitsAndBytesQuantizer"


def test_none_stands_for_the_default_dtypes() -> None:
    config = BitsAndBytesConfig(bnb_4bit_compute_dtype=None, bnb_4bit_quant_storage=None)
    assert config.bnb_4bit_compute_dtype is torch.float32
    assert config.bnb_4bit_quant_storage is torch.uint8


def test_dtypes_are_given_as_objects_or_names() -> None:
    by_object = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.bfloat16)
    assert by_object == BitsAndBytesConfig(bnb_4bit_compute_dtype="bfloat16")
    assert by_object.bnb_4bit_compute_dtype is torch.bfloat16
    assert by_object.to_dict()["bnb_4bit_compute_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("settings", "field", "allowed"),
    [
        ({"load_in_4bit": True, "load_in_8bit": True}, "load_in_4bit", "false"),
        ({"load_in_4bit": 1}, "load_in_4bit", "true or false"),
        ({"load_in_8bit": "yes"}, "load_in_8bit", "true or false"),
        ({**NF4, "bnb_4bit_quant_type": "nf5"}, "bnb_4bit_quant_type", "'nf4'"),
        ({**NF4, "bnb_4bit_quant_type": None}, "bnb_4bit_quant_type", "'fp4'"),
        ({"load_in_8bit": True, "llm_int8_threshold": -1.0}, "llm_int8_threshold", "0"),
        ({"load_in_8bit": True, "llm_int8_threshold": "6"}, "llm_int8_threshold", "number"),
        ({"load_in_8bit": True, "llm_int8_skip_modules": "lm_head"}, "llm_int8_skip_modules", ""),
        ({"load_in_8bit": True, "llm_int8_skip_modules": [3]}, "llm_int8_skip_modules", "string"),
        ({**NF4, "bnb_4bit_compute_dtype": "int8"}, "bnb_4bit_compute_dtype", "bfloat16"),
        ({**NF4, "bnb_4bit_quant_storage": "int64"}, "bnb_4bit_quant_storage", "uint8"),
        ({**NF4, "bnb_4bit_use_double_quant": "true"}, "bnb_4bit_use_double_quant", "true"),
        ({**NF4, "bnb_4bit_blocksize": 100}, "bnb_4bit_blocksize", "64"),
        ({"load_in_4bit": True, "_load_in_4bit": False}, "load_in_4bit", "False"),
    ],
)
def test_wrong_values_are_refused_by_name(
    settings: dict[str, Any], field: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        AutoQuantizationConfig.from_dict({"quant_method": "bitsandbytes", **settings})
    assert caught.value.field == field
    assert field in str(caught.value)
    assert allowed in caught.value.allowed


def test_unknown_keys_survive_a_round_trip() -> None:
    config = AutoQuantizationConfig.from_dict({**NF4, "unsloth_fixed": True})
    assert config.to_dict()["unsloth_fixed"] is True


def test_block_size_is_written_only_where_it_is_not_the_librarys_default() -> None:
    assert "bnb_4bit_blocksize" not in BitsAndBytesConfig(**NF4).to_dict()
    config = BitsAndBytesConfig(**NF4, bnb_4bit_blocksize=128)
    assert BitsAndBytesConfig.from_dict(config.to_dict()) == config


def test_compute_dtype_and_threshold_may_be_overridden_while_loading() -> None:
    stored = {**NF4, "quant_method": "bitsandbytes", "bnb_4bit_compute_dtype": "float32"}
    merged: Any = AutoQuantizationConfig.merge_quantization_configs(
        stored, {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"}
    )
    assert merged.bnb_4bit_compute_dtype is torch.bfloat16
    assert merged.bnb_4bit_quant_type == "nf4"


def test_another_type_than_the_stored_one_is_a_contradiction() -> None:
    stored = {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "quant_method": "bitsandbytes"}
    with pytest.raises(ConfigError, match=r"'fp4'.*'nf4'"):
        AutoQuantizationConfig.merge_quantization_configs(stored, NF4)


def test_sixteen_bit_main_weights_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="llm_int8_has_fp16_weight"):
        AutoHfQuantizer.from_config({"load_in_8bit": True, "llm_int8_has_fp16_weight": True})


def test_descriptors_and_config_import_no_torch() -> None:
    code = (
        "import sys, quantload_bitsandbytes, quantload_bitsandbytes.plugin as p, "
        "quantload_bitsandbytes.kernels, quantload_bitsandbytes.config as c; "
        "c.BitsAndBytesConfig(load_in_4bit=True).to_dict(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_demo_config_is_valid() -> None:
    from quantload_bitsandbytes.plugin import PLUGIN

    for settings in PLUGIN.demo.values():
        quantizer: Any = AutoHfQuantizer.from_config(settings, pre_quantized=False)
        assert quantizer.can_quantize()
