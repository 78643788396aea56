"""The conformance suites: few entries and many, several codebooks, tall tiles."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from quantload.testing import ConfigSuite, KernelSuite, MethodSuite, QuantizerSuite, WeightSuite


def layout(count: int, bits: int, out_group: int = 1, in_group: int = 8) -> dict[str, Any]:
    return {
        "num_codebooks": count,
        "nbits_per_codebook": bits,
        "out_group_size": out_group,
        "in_group_size": in_group,
    }


CONFIGS = {
    "2x8": layout(2, 8),
    "1x12": layout(1, 12, 1, 4),
    "3x5 tall": layout(3, 5, 4, 4),
}


class Aqlm(MethodSuite):
    method = "aqlm"
    distribution = "quantload-aqlm"
    configs: ClassVar = CONFIGS
    devices = ("cpu", "cuda")
    shard_dims = (0, 1)
    # a fit of few bits to a Gaussian, which has no structure to fit to
    max_relative_error = 0.75
    fitted: ClassVar[dict[Any, dict[str, torch.Tensor]]] = {}

    def checkpoint_tensors(self, config: Any, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        """Fitted once: a fit takes longer than what is tested with it."""
        key = (*config.values(), shape)
        if key not in self.fitted:
            self.fitted[key] = super().checkpoint_tensors(config, shape)
        return {name: tensor.clone() for name, tensor in self.fitted[key].items()}


class TestQuantizer(Aqlm, QuantizerSuite):
    pass


class TestWeight(Aqlm, WeightSuite):
    dtypes = (torch.float16,)


@pytest.mark.slow
class TestOtherWeights(Aqlm, WeightSuite):
    configs: ClassVar = {"1x16": layout(1, 16), "1x8": layout(1, 8), "4x8": layout(4, 8)}
    shapes = ((64, 128),)


class TestKernels(Aqlm, KernelSuite):
    pack = "aqlm"
    configs: ClassVar = {"2x8": CONFIGS["2x8"], "1x12": CONFIGS["1x12"]}
    shapes = ((64, 128), (24, 64))
    rows = (1, 2, 7, 17, 33)


class TestConfig(ConfigSuite):
    method = "aqlm"
    distribution = "quantload-aqlm"
    samples = (
        {},
        {
            "in_group_size": 8,
            "out_group_size": 1,
            "num_codebooks": 1,
            "nbits_per_codebook": 16,
            "linear_weights_not_to_quantize": ["model.embed_tokens.weight", "lm_head.weight"],
        },
        {"num_codebooks": 2, "nbits_per_codebook": 8, "linear_weights_not_to_quantize": None},
    )
    nonsense = (
        {"num_codebooks": 0},
        {"nbits_per_codebook": 33},
        {"nbits_per_codebook": "16"},
        {"in_group_size": -8},
        {"out_group_size": 1.5},
        {"linear_weights_not_to_quantize": "lm_head.weight"},
    )
