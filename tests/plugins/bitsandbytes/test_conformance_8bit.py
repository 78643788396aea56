"""LLM.int8 before the core's own suites for authors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from quantload.testing import KernelSuite, QuantizerSuite, WeightSuite
from quantload.testing.declared import MethodSuite


class EightBit(MethodSuite):
    method = "bitsandbytes"
    distribution = "quantload-bitsandbytes"
    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "int8": {"load_in_8bit": True},
        "int8 without a threshold": {"load_in_8bit": True, "llm_int8_threshold": 0.0},
    }
    shard_dims = (0, 1)
    optional_tensors = frozenset({"weight_format"})


class TestQuantizer(EightBit, QuantizerSuite):
    pass


class TestWeight(EightBit, WeightSuite):
    shapes = ((64, 128), (24, 50))


class TestKernels(EightBit, KernelSuite):
    pack = "bitsandbytes"
    kernels = ("bitsandbytes_llm_int8", "bitsandbytes_int8_exact")
    kernel_error: ClassVar[Mapping[str, float]] = {"bitsandbytes_llm_int8": 0.02}


@pytest.mark.gpu
class TestKernelOnCuda(EightBit, KernelSuite):
    pack = "bitsandbytes"
    kernels = ("bitsandbytes_llm_int8",)
    devices = ("cuda",)
    kernel_error: ClassVar[Mapping[str, float]] = {"bitsandbytes_llm_int8": 0.02}
