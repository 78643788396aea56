"""The descriptor of the pack: data only, free of torch and of LLVM."""

from __future__ import annotations

from quantload.plugin import API, KernelPack

PACK = KernelPack(
    api=API,
    kernels=("quantload_kernels_cpu.affine:CpuAffine", "quantload_kernels_cpu.ggml:CpuBlocks"),
    devices=("cpu",),
    summary="group-wise integers of 2 to 8 bits and ggml blocks on x86-64 CPUs (AVX2 and newer)",
)
