"""Run by `test_the_suites_can_fail.py` in a process of its own: a suite for every case."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import broken.configs
import broken.kernels
import broken.quantizers
import broken.weights
import toy8.config
import toy8.kernel
import toy8.plugin
import toy8.quantizer

import quantload
from quantload.plugin import KernelPack, QuantizerPlugin
from quantload.testing import ConfigSuite, KernelSuite, QuantizerSuite, WeightSuite

GRID = {
    "shapes": ((24, 64),),
    "dtypes": (torch.float32, torch.bfloat16),
    "shard_dims": (0, 1),
    "max_relative_error": 0.01,
}
CONFIG_SAMPLES = {
    "samples": ({}, {"limit": 7, "scale_dtype": "float16"}, {"kernel": "x", "skip": ["a"]}),
    "nonsense": ({"limit": 0}, {"scale_dtype": "int8"}, {"skip": 3}),
}


def register(name, config, quantizer, plugin=None):
    """Register a method whose config knows itself by the name of the case."""
    named = type(config.__name__, (config,), {"quant_method": name, "__module__": __name__})
    globals()[config.__name__] = named  # pickles look classes up by name
    make = plugin or (
        lambda c, q: QuantizerPlugin(
            api=1, config=c, quantizer=q, requires=("torch>=2.8",), summary="broken"
        )
    )
    quantload.register(name, make(named, quantizer))


def suite(name, base, **attributes):
    """Put a test class into this module."""
    globals()[f"Test{name}"] = type(f"Test{name}", (base,), {"__module__": __name__, **attributes})


for case in broken.weights.CASES:
    quantizer = type("Q", (toy8.quantizer.Toy8Quantizer,), {"weight_class": case.parts["class"]})
    register(f"weight_{case.name}", toy8.config.Toy8Config, quantizer)
    declared = {**GRID, **case.parts.get("declared", {})}
    suite(f"Weight{case.name}", WeightSuite, method=f"weight_{case.name}", **declared)

for case in broken.quantizers.CASES:
    plugin = case.parts.get("plugin")
    if case.name == "PromisesAnotherDevice":
        plugin = broken.quantizers.descriptor(devices=("cpu", "abacus"))
    register(f"quantizer_{case.name}", toy8.config.Toy8Config, case.parts["class"], plugin)
    base = {"weight": WeightSuite, "quantizer": QuantizerSuite}[case.parts["suite"]]
    declared = {**GRID, **case.parts.get("declared", {})}
    suite(f"Quantizer{case.name}", base, method=f"quantizer_{case.name}", **declared)

for case in broken.configs.CASES:
    register(f"config_{case.name}", case.parts["class"], toy8.quantizer.Toy8Quantizer)
    declared = {**CONFIG_SAMPLES, **case.parts.get("declared", {})}
    suite(f"Config{case.name}", ConfigSuite, method=f"config_{case.name}", **declared)

register("correct", toy8.config.Toy8Config, toy8.quantizer.Toy8Quantizer)
for case in broken.kernels.CASES:
    cls = case.parts["class"]
    if cls.name == toy8.kernel.Toy8Kernel.name:
        cls.name = f"kernel-{case.name}"
    pack = KernelPack(api=1, kernels=(f"broken.kernels:{case.name}",), devices=("cpu",))
    quantload.register(f"pack_{case.name}", pack)
    suite(f"Kernel{case.name}", KernelSuite, method="correct", pack=f"pack_{case.name}", **GRID)

quantload.register("correct-pack", toy8.plugin.KERNELS)
suite("CorrectWeight", WeightSuite, method="correct", **GRID)
suite("CorrectQuantizer", QuantizerSuite, method="correct", **GRID)
suite("CorrectConfig", ConfigSuite, method="correct", **CONFIG_SAMPLES)
suite("CorrectKernel", KernelSuite, method="correct", pack="correct-pack", **GRID)
