"""The conformance suites of quantload, on weights that share the core's layout and on others."""

from __future__ import annotations

from typing import ClassVar

import torch

from quantload.testing import ConfigSuite, MethodSuite, QuantizerSuite, WeightSuite

# what a reader can do without: how the layer was made, and what follows from the rest
OPTIONAL = frozenset(
    {
        "unpack_view_dtype",
        "view_as_float",
        "quant_scale",
        "quant_zero",
        "compute_dtype",
        "offload_meta",
        "encoded_state_dict",
        "stores_quant_config",
        "channel_wise",
        "optimize",
        "round_zero",
    }
)


class Hqq(MethodSuite):
    method = "hqq"
    distribution = "quantload-hqq"
    devices = ("cpu", "cuda")
    optional_tensors = OPTIONAL


class ByRows(Hqq):
    """Groups within rows: group-wise integers, as GPTQ and AWQ have them."""

    configs: ClassVar = {
        "4 bits": {"nbits": 4, "group_size": 32},
        "3 bits as floats": {"nbits": 3, "group_size": 64, "view_as_float": True},
    }
    shard_dims = (0, 1)
    max_relative_error = 0.25


class Apart(Hqq):
    """Groups of weights that lie apart, and single bits."""

    configs: ClassVar = {
        "2 bits, axis 0": {"nbits": 2, "group_size": 8, "axis": 0},
        "1 bit": {"nbits": 1, "group_size": 16},
    }
    max_relative_error = 0.95  # one bit says little about a Gaussian


class TestQuantizer(ByRows, QuantizerSuite):
    pass


class TestQuantizerApart(Apart, QuantizerSuite):
    pass


class TestWeight(ByRows, WeightSuite):
    dtypes = (torch.float32, torch.float16)


class TestWeightApart(Apart, WeightSuite):
    dtypes = (torch.bfloat16,)


class TestConfig(ConfigSuite):
    method = "hqq"
    distribution = "quantload-hqq"
    samples = (
        {},
        {"nbits": 3, "group_size": 128, "axis": 0},
        {"nbits": 1.58, "group_size": None, "skip_modules": []},
        {
            "quant_config": {
                "weight_quant_params": {
                    "nbits": 2,
                    "channel_wise": True,
                    "group_size": 16,
                    "optimize": True,
                    "round_zero": False,
                    "axis": 1,
                    "view_as_float": False,
                },
                "scale_quant_params": None,
                "zero_quant_params": None,
                "offload_meta": False,
            },
            "skip_modules": ["lm_head"],
        },
        {"dynamic_config": {"self_attn.q_proj": {"nbits": 8}, "mlp.up_proj": {"nbits": 2}}},
        {"quant_config": {"mlp.up_proj": {"weight_quant_params": {"nbits": 4, "group_size": 64}}}},
    )
    nonsense = (
        {"nbits": 7},
        {"group_size": 12},
        {"axis": 2},
        {"quant_config": 3},
        {"quant_config": {"weight_quant_params": {"nbits": 4}, "scale_quant_params": {"nbits": 8}}},
        {"dynamic_config": {"mlp.up_proj": {"nbits": 9}}},
        {"dynamic_config": {"mlp.up_proj": {"bits": 4}}},
        {"skip_modules": "lm_head"},
    )
