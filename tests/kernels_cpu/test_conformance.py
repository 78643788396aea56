"""The kernel suite on the CPU pack."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from quantload.plugin import ModuleSpec, PackedWeight
from quantload.testing import KernelSuite

pytest.importorskip("quantload_gguf")


class TestCpuBlocks(KernelSuite):
    pack = "cpu"
    distribution = "quantload-kernels-cpu"
    kernels = ("cpu-ggml",)
    method = "gguf"
    configs: ClassVar = {"Q8_0": {"quant_method": "gguf", "type": "Q8_0"}}
    shapes = ((64, 128), (24, 96))
    rows = (1, 2, 5, 17)
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    devices = ("cpu",)

    def packed_weight(
        self, config: Any, shape: tuple[int, int], dtype: torch.dtype, device: str
    ) -> PackedWeight:
        """Random numbers, quantized by the method."""
        from quantload import AutoHfQuantizer

        numbers = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.05
        quantizer: Any = AutoHfQuantizer.from_config(config)
        weight: PackedWeight = quantizer.quantize(ModuleSpec("layer", shape=shape), numbers)
        weight.set_compute_dtype(dtype)
        return weight.to(device)
