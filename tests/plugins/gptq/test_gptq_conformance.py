"""The conformance suites, on every layout that can be made here."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from quantload.testing import ConfigSuite, QuantizerSuite, WeightSuite

CONFIGS: dict[str, dict[str, Any]] = {
    "4-bit": {"bits": 4, "group_size": 32, "sym": True},
    "4-bit asymmetric": {"bits": 4, "group_size": 64, "sym": False},
    "3-bit": {"bits": 3, "group_size": 32, "sym": False, "checkpoint_format": "gptq_v2"},
    "8-bit rows": {"bits": 8, "group_size": -1, "sym": True},
    "5-bit planar": {"bits": 5, "group_size": 96, "sym": False},
}


class Declared:
    method = "gptq"
    distribution = "quantload-gptq"
    configs = CONFIGS
    shapes = ((64, 128), (32, 96))
    devices = ("cpu", "cuda")
    shard_dims = (0, 1)
    max_relative_error = 0.25
    optional_tensors = frozenset({"g_idx"})


class TestQuantizer(Declared, QuantizerSuite):
    pass


class TestWeight(Declared, WeightSuite):
    configs: ClassVar = {name: CONFIGS[name] for name in ("4-bit", "5-bit planar")}


@pytest.mark.slow
class TestOtherWeights(Declared, WeightSuite):
    configs: ClassVar = {name: c for name, c in CONFIGS.items() if name not in TestWeight.configs}


@pytest.mark.slow
class TestMarlin(WeightSuite):
    method = "gptq"
    distribution = "quantload-gptq"
    configs: ClassVar = {
        "marlin": {"bits": 4, "group_size": 128, "sym": True, "checkpoint_format": "marlin"}
    }
    shapes = ((256, 128), (256, 256))
    devices = ("cpu", "cuda")
    shard_dims = (0, 1)
    max_relative_error = 0.15


class TestConfig(ConfigSuite):
    method = "gptq"
    distribution = "quantload-gptq"
    samples = (
        {"bits": 4},
        {"bits": 4, "group_size": 128, "desc_act": True, "sym": False, "damp_percent": 0.01},
        {"w_bit": 4, "q_group_size": 64, "version": "gptq_v2"},
        {"wbits": 3, "group_size": -1, "checkpoint_format": "gptq_p", "format": "gptq_p"},
        {"bits": 4, "is_marlin_format": True, "model_file_base_name": "gptq_model-4bit-128g"},
        {"bits": 8, "pack_dtype": "int8", "lm_head": True, "method": "gptq"},
        {"bits": 4, "dynamic": {"-:.*k_proj": {}, r"+:.*\.0\.": {"bits": 8, "group_size": 64}}},
        {"bits": 4, "zero_point": True, "desc_act": None, "some_new_key": [1, 2]},
        {"bits": 8, "checkpoint_format": "marlin", "sym": None, "meta": "by hand", "mse": False},
        {"wbits": 4, "groupsize": 64, "dynamic": {"a": {"format": "GPTQ_V2"}}},
        {
            "bits": 2,
            "modules_in_block_to_quantize": [["a.q"], ["a.k", "a.v"]],
            "use_exllama": False,
        },
    )
    nonsense = (
        {},
        {"bits": 9},
        {"bits": 1},
        {"bits": "four"},
        {"bits": 4, "group_size": 0},
        {"bits": 4, "w_bit": 8},
        {"bits": 4, "checkpoint_format": "gptq_v9"},
        {"bits": 4, "checkpoint_format": "bitblas"},
        {"bits": 4, "dynamic": {"a": {"format": "gemm"}}},
        {"bits": 4, "dynamic": {"a": {"pack_dtype": "int64"}}},
        {"bits": 4, "pack_dtype": "int64"},
        {"bits": 4, "dynamic": {"+:([": {}}},
        {"bits": 4, "dynamic": {"a": {"bits": 16}}},
        {"bits": 4, "dynamic": {"a": 4}},
    )
