"""`TritonKernel`: AQLM on CUDA, by the kernels of `quantload-kernels-triton`."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from quantload.plugin import Kernel, KernelSpec, PackedWeight, Verdict
from quantload_aqlm.weights import AqlmWeight
from quantload_kernels_triton.availability import device_verdict, triton_verdict
from quantload_kernels_triton.codebooks import operators  # noqa: F401  registers the operators


class TritonKernel(Kernel):
    """Every code read once for few rows; entries made into operands tile by tile for many.

    The canonical storage serves as it is.
    """

    name = "aqlm-triton"
    priority = 20

    def supports(self, spec: KernelSpec) -> Verdict:
        """Groups of one row and eight columns, codes of 8 or 16 bits, float16 and bfloat16."""
        if spec.layout != AqlmWeight.layout:
            return Verdict.no(f"runs aqlm weights, not {spec.layout or 'this layout'}")
        params = spec.params
        if (params["out_group"], params["in_group"]) != (1, 8):
            return Verdict.no(
                f"runs groups of 1 row and 8 columns, not of {params['out_group']} and "
                f"{params['in_group']}"
            )
        if params["entries"] > 1 << 16:
            return Verdict.no(f"has codes of up to 16 bits, not {params['entries']} entries")
        if spec.dtype not in (torch.float16, torch.bfloat16):
            return Verdict.no(
                f"computes in float16 and bfloat16, not in {str(spec.dtype).split('.')[-1]}"
            )
        return Verdict.all([triton_verdict(), device_verdict(spec.device, spec.capability)])

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """See `Kernel.linear`."""
        own = cast("AqlmWeight", weight)
        product: Tensor = torch.ops.quantload_triton.codebooks_linear(
            x, own.codes, own.codebooks, own.scales
        )
        return product
