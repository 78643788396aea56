"""The descriptor of the pack: data only, free of torch and of triton."""

from __future__ import annotations

from quantload.plugin import API, KernelPack

PACK = KernelPack(
    api=API,
    kernels=("quantload_kernels_triton.kernel:TritonAffine",),
    devices=("cuda",),
    summary="group-wise integers of 2, 3, 4 and 8 bits on CUDA (sm80 and newer), in Triton",
)
