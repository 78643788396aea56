"""The descriptors; free of torch."""

from __future__ import annotations

from quantload.plugin import KernelPack, QuantizerPlugin

PLUGIN = QuantizerPlugin(
    api=1,
    config="quantload_aqlm.config:AqlmConfig",
    quantizer="quantload_aqlm.quantizer:AqlmQuantizer",
    devices=("cpu", "cuda"),
    summary="AQLM: groups of weights as sums of codebook entries",
    demo={
        "AQLM 4x8": {"quant_method": "aqlm", "num_codebooks": 4, "nbits_per_codebook": 8},
    },
)
KERNELS = KernelPack(
    api=1,
    kernels=("quantload_aqlm.kernels:LookupKernel",),
    devices=("cpu",),
    summary="AQLM on the CPU: products with the codebooks looked up, for few rows",
)
TRITON = KernelPack(
    api=1,
    kernels=("quantload_aqlm.triton:TritonKernel",),
    requires=("quantload-kernels-triton>=0.1,<0.2",),
    devices=("cuda",),
    summary="AQLM on CUDA (sm80 and newer): groups of eight columns, in Triton",
)
