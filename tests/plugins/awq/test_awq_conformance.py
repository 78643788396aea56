"""The conformance suites, on every layout that can be made here."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from quantload.testing import ConfigSuite, QuantizerSuite, WeightSuite

CONFIGS: dict[str, dict[str, Any]] = {
    "gemm": {"bits": 4, "group_size": 32},
    "gemv_fast": {"bits": 4, "group_size": 64, "version": "gemv_fast"},
    "gemm 3-bit": {"bits": 3, "group_size": 32},
    "gemv": {"bits": 4, "group_size": 64, "version": "GEMV"},
    "llm-awq": {"bits": 4, "group_size": 32, "backend": "llm-awq"},
}


class Declared:
    method = "awq"
    distribution = "quantload-awq"
    configs = CONFIGS
    shapes = ((64, 128), (32, 192))
    devices = ("cpu", "cuda")
    shard_dims = (0, 1)
    max_relative_error = 0.25


class TestQuantizer(Declared, QuantizerSuite):
    pass


class TestQuantizerWithoutZeroPoints(Declared, QuantizerSuite):
    configs: ClassVar = {"gemm without zeros": {"group_size": 64, "zero_point": False}}
    optional_tensors = frozenset({"qzeros"})


class TestWeight(Declared, WeightSuite):
    configs: ClassVar = {name: CONFIGS[name] for name in ("gemm", "gemv_fast")}


@pytest.mark.slow
class TestOtherWeights(Declared, WeightSuite):
    configs: ClassVar = {name: c for name, c in CONFIGS.items() if name not in TestWeight.configs}


@pytest.mark.slow
class TestMarlin(WeightSuite):
    method = "awq"
    distribution = "quantload-awq"
    configs: ClassVar = {"marlin": {"group_size": 128, "version": "marlin", "zero_point": False}}
    shapes = ((256, 128), (256, 256))
    devices = ("cpu", "cuda")
    shard_dims = (0, 1)
    max_relative_error = 0.15


class TestConfig(ConfigSuite):
    method = "awq"
    distribution = "quantload-awq"
    samples = (
        {},
        {"bits": 4, "group_size": 128, "zero_point": True, "version": "GEMM"},
        {"w_bit": 4, "q_group_size": 64, "zero_point": True, "version": "gemv"},
        {"bits": 4, "group_size": 128, "version": "marlin", "zero_point": False},
        {"bits": 4, "backend": "llm-awq", "group_size": 128},
        {"bits": 4, "format": "gemv_fast", "modules_to_not_convert": ["visual", "lm_head"]},
        {"bits": 4, "version": "exllama", "exllama_config": {"version": 2}, "do_fuse": True},
        {"bits": 8, "sym": True, "desc_act": False, "pack_dtype": "int32", "another_key": 1},
        {"bits": 4, "zero_point": None, "version": None, "modules_to_not_convert": None},
        {"bits": 8, "version": "marlin", "zero_point": True, "modules_to_not_convert": "lm_head"},
        {"version": "marlin", "zero_point": None, "meta": "by hand", "do_fuse": "no"},
        {"dynamic": {"-:.*k_proj": {}, r".*\.0\.": {"w_bit": 8, "sym": True}}, "method": "awq"},
    )
    nonsense = (
        {"bits": 9},
        {"bits": 3, "version": "gemv"},
        {"bits": 4, "w_bit": 3},
        {"group_size": 0},
        {"version": "gemmm"},
        {"modules_to_not_convert": 3},
        {"dynamic": {"a": {"bits": 16}}},
        {"dynamic": {"a": {"sym": "yes"}}},
        {"dynamic": {"+:([": {}}},
    )
