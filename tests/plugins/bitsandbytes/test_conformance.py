"""The plugin before the core's own suites for authors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from quantload.testing import ConfigSuite, KernelSuite, QuantizerSuite, WeightSuite
from quantload.testing.declared import MethodSuite

FOUR_BIT: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4 double in bf16": {
        "load_in_4bit": True,
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_storage": "bfloat16",
    },
}
EIGHT_BIT: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "int8 without a threshold": {"load_in_8bit": True, "llm_int8_threshold": 0.0},
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
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_blocksize": 128},
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
    configs = FOUR_BIT
    max_relative_error = 0.13


class EightBit(MethodSuite):
    method = "bitsandbytes"
    distribution = "quantload-bitsandbytes"
    configs = EIGHT_BIT
    shard_dims = (0, 1)
    optional_tensors = frozenset({"weight_format"})


class TestFourBitQuantizer(FourBit, QuantizerSuite):
    pass


class TestFourBitWeight(FourBit, WeightSuite):
    shapes = ((64, 128), (24, 256))
    shard_dims = (0, 1)


class TestFourBitWeightWhereBlocksCrossRows(FourBit, WeightSuite):
    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {"nf4": FOUR_BIT["nf4"]}
    shapes = CROSSING


class TestEightBitQuantizer(EightBit, QuantizerSuite):
    pass


class TestEightBitWeight(EightBit, WeightSuite):
    shapes = ((64, 128), (24, 50))


class TestFourBitKernel(FourBit, KernelSuite):
    pack = "bitsandbytes"
    kernels = ("bitsandbytes_cpu",)
    shapes = ((64, 128), (24, 64), *CROSSING)


@pytest.mark.gpu
class TestFourBitKernelOnCuda(FourBit, KernelSuite):
    pack = "bitsandbytes"
    kernels = ("bitsandbytes_cuda",)
    shapes = ((64, 128), (24, 64), *CROSSING)
    devices = ("cuda",)


class TestEightBitKernels(EightBit, KernelSuite):
    pack = "bitsandbytes"
    kernels = ("bitsandbytes_llm_int8", "bitsandbytes_int8_exact")
    kernel_error: ClassVar[Mapping[str, float]] = {"bitsandbytes_llm_int8": 0.02}


@pytest.mark.gpu
class TestEightBitKernelOnCuda(EightBit, KernelSuite):
    pack = "bitsandbytes"
    kernels = ("bitsandbytes_llm_int8",)
    devices = ("cuda",)
    kernel_error: ClassVar[Mapping[str, float]] = {"bitsandbytes_llm_int8": 0.02}
