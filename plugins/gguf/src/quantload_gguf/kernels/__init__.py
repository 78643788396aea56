"""Kernels for ggml blocks: the descriptors of the packs, free of torch."""

from __future__ import annotations

from quantload.plugin import KernelPack

PACK = KernelPack(
    api=1,
    kernels=(
        "quantload_gguf.kernels.int4:Int4Kernel",
        "quantload_gguf.kernels.bags:BagsKernel",
    ),
    devices=("cpu",),
    summary="products of ggml blocks by torch's own int4 matmul and embedding bags on x86 CPUs",
)

TRITON = KernelPack(
    api=1,
    kernels=("quantload_gguf.kernels.triton:TritonKernel",),
    requires=("quantload-kernels-triton>=0.1,<0.2",),
    devices=("cuda",),
    summary="products of ggml blocks on CUDA (sm80 and newer), in Triton",
)
