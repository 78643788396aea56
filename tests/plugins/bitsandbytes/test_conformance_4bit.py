"""The config, NF4 and FP4 before the core's own suites for authors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from quantload.testing import ConfigSuite, KernelSuite, QuantizerSuite, WeightSuite
from quantload.testing.declared import MethodSuite

NF4: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
FP4_DOUBLE: dict[str, Any] = {
    "load_in_4bit": True,
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_quant_storage": "bfloat16",
}
# Blocks of 64 cross rows in each of these, and the last of (3, 36) is short.
CROSSING = ((20, 36), (6, 96), (3, 36))


class TestConfig(ConfigSuite):
    method = "bitsandbytes"
    distribution = "quantload-bitsandbytes"
    samples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"load_in_4bit": True},
        {"_load_in_8bit": True, "llm_int8_threshold": 5},
        {"load_in_4bit": True, "bnb_4bit_compute_dtype": "torch.bfloat16"},
        {**NF4, "bnb_4bit_blocksize": 128},
        {"load_in_8bit": True, "llm_int8_skip_modules": ["lm_head"]},
    )
    nonsense: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"load_in_4bit": True, "load_in_8bit": True},
        {"bnb_4bit_quant_type": "nf5"},
        {"llm_int8_threshold": -1},
        {"bnb_4bit_blocksize": 63},
        {"load_in_4bit": True, "_load_in_4bit": False},
    )


class FourBit(MethodSuite):
    method = "bitsandbytes"
    distribution = "quantload-bitsandbytes"
    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nf4": NF4,
        "fp4 double in bf16": FP4_DOUBLE,
    }
    max_relative_error = 0.13


class TestQuantizer(FourBit, QuantizerSuite):
    pass


class TestWeight(FourBit, WeightSuite):
    shapes = ((64, 128), (24, 256))
    shard_dims = (0, 1)


class TestWeightWhereBlocksCrossRows(FourBit, WeightSuite):
    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {"nf4": NF4}
    shapes = CROSSING[:2]


class TestKernel(FourBit, KernelSuite):
    pack = "bitsandbytes"
    kernels = ("bitsandbytes_cpu",)
    shapes = ((64, 128), *CROSSING)
    rows = (1, 5, 33)


@pytest.mark.gpu
class TestKernelOnCuda(FourBit, KernelSuite):
    pack = "bitsandbytes"
    kernels = ("bitsandbytes_cuda",)
    shapes = ((64, 128), (24, 64), *CROSSING)
    devices = ("cuda",)
