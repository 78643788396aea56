"""What the core itself brings through the entry points that plugins use."""

from __future__ import annotations

from quantload.plugin import API, KernelPack

TORCH_CPU = KernelPack(
    api=API,
    kernels=(
        "quantload.weights.affine.int4_kernel:TorchInt4",
        "quantload.weights.affine.bags_kernel:TorchBags",
    ),
    devices=("cpu",),
    summary="products that torch ships for CPUs",
)
"""Entry point `torch-cpu` of the group `quantload.kernels`."""
