"""The conformance suites: a type that is written here, and types that are only read."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from quantload.testing import ConfigSuite, KernelSuite, MethodSuite, QuantizerSuite, WeightSuite
from quantload_gguf.ggml import ggml_type


class Gguf(MethodSuite):
    method = "gguf"
    distribution = "quantload-gguf"
    devices = ("cpu", "cuda")
    shard_dims = (0, 1)


class Written(Gguf):
    """Types that weights are quantized to."""

    configs: ClassVar = {"Q8_0": {"type": "Q8_0"}, "Q4_1": {"type": "Q4_1"}}
    max_relative_error = 0.12


class Read(Gguf):
    """Types that come from files."""

    configs: ClassVar = {"Q4_K": {"type": "Q4_K"}, "IQ4_XS": {"type": "IQ4_XS"}}
    shapes = ((16, 512), (6, 512))
    can_quantize = False

    def checkpoint_tensors(self, config: Any, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        """Random blocks with scales that are numbers."""
        kind = ggml_type(config["type"])
        generator = torch.Generator().manual_seed(shape[0])
        size = (shape[0], kind.row_bytes(shape[1]))
        blocks = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        each = blocks.view(shape[0], -1, kind.nbytes)
        # float16 scales are in front of a block: positive, of moderate size
        for at in range(1, 4 if config["type"] == "Q4_K" else 2, 2):
            each[..., at] = each[..., at] % 4 + 32
        return {"weight": blocks}


class TestWritten(Written, QuantizerSuite):
    pass


class TestRead(Read, QuantizerSuite):
    pass


class TestWeight(Written, WeightSuite):
    dtypes = (torch.float16,)


class TestReadWeight(Read, WeightSuite):
    dtypes = (torch.bfloat16,)
    compileable = False  # it is; seconds are spared here that those above have spent


class TestKernels(Written, KernelSuite):
    pack = "gguf-cpu"
    # its scales are bfloat16, and so are its sums over a group
    kernel_error: ClassVar = {"ggml-int4": 0.02}
    # a row of a table has a tail of 4 bytes, which matters with as few rows as here
    extra_bytes = 0.6


class TestConfig(ConfigSuite):
    method = "gguf"
    distribution = "quantload-gguf"
    samples = (
        {},
        {"type": "q8_0"},
        {"quant_type": 12},
        {"type": "Q4_0", "types": {"model.layers.0.mlp.down_proj": "Q6_K"}},
        {"type": "Q5_1", "modules_to_not_convert": ["lm_head"], "compute_dtype": "bfloat16"},
    )
    nonsense = (
        {"type": "Q4_9"},
        {"type": "Q8_1"},
        {"type": 31},
        {"types": {"a": "Q9"}},
        {"types": ["Q4_0"]},
        {"compute_dtype": "int8"},
    )


pytest.importorskip("gguf")
