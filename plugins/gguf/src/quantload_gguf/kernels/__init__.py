"""Kernels for ggml blocks: the descriptor of the pack, free of torch."""

from __future__ import annotations

from quantload.plugin import KernelPack

PACK = KernelPack(
    api=1,
    kernels=("quantload_gguf.kernels.int4:Int4Kernel",),
    devices=("cpu",),
    summary="products of ggml blocks by torch's own int4 matmul on x86 CPUs",
)
