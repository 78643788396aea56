"""The descriptor of the kernels: data only, so that listing it imports no torch."""

from __future__ import annotations

from quantload.plugin import API, KernelPack

PACK = KernelPack(
    api=API,
    kernels=(
        "quantload_bitsandbytes.kernel_classes:ChunkedFourBit",
        "quantload_bitsandbytes.kernel_classes:LibraryFourBit",
        "quantload_bitsandbytes.kernel_classes:LlmInt8",
        "quantload_bitsandbytes.kernel_classes:ChunkedEightBit",
    ),
    devices=("cpu", "cuda"),
    summary="bitsandbytes' own kernels where they are right, and products by parts on the CPU",
)
