"""The kernel suite on the Triton pack; all but its descriptor needs a GPU, or is skipped."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from makers import make_weight

from quantload.plugin import ModuleSpec, PackedWeight
from quantload.testing import KernelSuite
from quantload.testing.declared import require

pytest.importorskip("triton")


class TestTritonAffine(KernelSuite):
    pack = "triton"
    distribution = "quantload-kernels-triton"
    kernels = ("triton",)
    configs: ClassVar = {
        "4 bits": {"bits": 4, "group_size": 64},
        "3 bits, act-order": {"bits": 3, "group_size": 32, "act_order": "even"},
        "8 bits, symmetric": {"bits": 8, "group_size": 128, "symmetric": True},
        "4 bits, offsets": {"bits": 4, "group_size": 64, "offsets": torch.float32},
    }
    shapes = ((256, 512), (96, 384))
    rows = (1, 3, 8, 17, 64, 130)
    dtypes = (torch.float16, torch.bfloat16)
    devices = ("cuda",)
    shard_dims = (0, 1)
    extra_bytes = 0.4  # rows are filled up to whole tiles, much of so small a weight

    def packed_weight(
        self, config: Any, shape: tuple[int, int], dtype: torch.dtype, device: str
    ) -> PackedWeight:
        """A random weight of the layout; no method is needed for it."""
        require(device)
        return make_weight(rows=shape[0], columns=shape[1], dtype=dtype, **config).to(device)


class _Bitsandbytes(KernelSuite):
    __test__ = False
    pack = "triton"
    distribution = "quantload-kernels-triton"
    shapes = ((256, 512), (96, 384))
    rows = (1, 3, 8, 17, 64, 130)
    dtypes = (torch.float16, torch.bfloat16)
    devices = ("cuda",)
    shard_dims = (0, 1)
    extra_bytes = 0.4  # rows are filled up to whole tiles, much of so small a weight

    def packed_weight(
        self, config: Any, shape: tuple[int, int], dtype: torch.dtype, device: str
    ) -> PackedWeight:
        """Random numbers, quantized by the method."""
        require(device)
        from quantload import AutoHfQuantizer

        quantizer: Any = AutoHfQuantizer.from_config(config)
        source = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.05
        weight: PackedWeight = quantizer.quantize(ModuleSpec("layer", shape=shape), source)
        weight.set_compute_dtype(dtype)
        return weight.to(device)


class TestTritonCodebook(_Bitsandbytes):
    __test__ = True
    kernels = ("triton_codebook",)
    configs: ClassVar = {
        "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "fp4, double": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "fp4",
            "bnb_4bit_use_double_quant": True,
        },
    }


class TestTritonRows8(_Bitsandbytes):
    __test__ = True
    kernels = ("triton_rows8",)
    configs: ClassVar = {"int8": {"load_in_8bit": True}}
