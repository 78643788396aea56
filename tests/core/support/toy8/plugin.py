"""The descriptors: data only, so that listing them imports no torch."""

from __future__ import annotations

from quantload.plugin import API, KernelPack, QuantizerPlugin

PLUGIN = QuantizerPlugin(
    api=API,
    config="toy8.config:Toy8Config",
    quantizer="toy8.quantizer:Toy8Quantizer",
    requires=("torch>=2.8",),
    devices=("cpu", "cuda"),
    summary="int8 rows, rounded to nearest",
)

KERNELS = KernelPack(api=API, kernels=("toy8.kernel:Toy8Kernel",), devices=("cpu",))
