"""The suites of `quantload.testing`, a line or two for each."""

from quantload.testing import ConfigSuite, MethodSuite, QuantizerSuite, WeightSuite


class Rtn8(MethodSuite):
    method = "rtn8"
    distribution = "quantload-rtn8"
    devices = ("cpu", "cuda")
    shard_dims = (0, 1)
    max_relative_error = 0.01


class TestConfig(ConfigSuite):
    method = "rtn8"
    distribution = "quantload-rtn8"


class TestQuantizer(Rtn8, QuantizerSuite):
    pass


class TestWeight(Rtn8, WeightSuite):
    pass
