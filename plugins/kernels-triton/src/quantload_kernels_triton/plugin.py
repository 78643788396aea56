"""The descriptor of the pack: data only, free of torch and of triton."""

from __future__ import annotations

from quantload.plugin import API, KernelPack

PACK = KernelPack(
    api=API,
    kernels=(
        "quantload_kernels_triton.kernel:TritonAffine",
        "quantload_kernels_triton.codebook:TritonCodebook",
        "quantload_kernels_triton.rows8:TritonRows8",
    ),
    devices=("cuda",),
    summary="group-wise integers of 2, 3, 4 and 8 bits, NF4 and FP4, and LLM.int8 weights on CUDA "
    "(sm80 and newer), in Triton",
)
