"""The suites on a method that keeps every promise: the lines an author writes."""

from __future__ import annotations

from quantload.testing import ConfigSuite, KernelSuite, QuantizerSuite, WeightSuite

CONFIGS = {"half-scales": {"scale_dtype": "float16"}}


DEVICES = ("cpu", "cuda")


class TestConfig(ConfigSuite):
    method = "toy8"
    distribution = "quantload-toy8"
    samples = ({}, {"limit": 7, "scale_dtype": "torch.float16"}, {"kernel": "x", "skip": ["a"]})
    nonsense = ({"limit": 0}, {"limit": "many"}, {"scale_dtype": "int8"}, {"skip": 3})


class TestQuantizer(QuantizerSuite):
    method = "toy8"
    distribution = "quantload-toy8"
    configs = CONFIGS
    devices = DEVICES


class TestWeight(WeightSuite):
    method = "toy8"
    configs = CONFIGS
    devices = DEVICES
    shard_dims = (0, 1)
    max_relative_error = 0.01


class TestKernel(KernelSuite):
    method = "toy8"
    configs = CONFIGS
    devices = DEVICES
    shard_dims = (0, 1)
    pack = "toy8"
