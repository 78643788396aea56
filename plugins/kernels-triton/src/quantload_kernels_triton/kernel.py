"""`TritonAffine`: the kernel of group-wise integers, as the core's contract has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import Tensor

from quantload.kernels import Kernel, KernelSpec
from quantload.verdict import Verdict
from quantload_kernels_triton import operators
from quantload_kernels_triton.arrange import arrange, restore, run_of
from quantload_kernels_triton.availability import (
    FLOATS,
    device_verdict,
    dtype_verdict,
    triton_verdict,
)
from quantload_kernels_triton.chosen import multiply_chosen
from quantload_kernels_triton.geometry import PLANES

if TYPE_CHECKING:
    from quantload.weights.affine import AffineWeight
    from quantload.weights.packed import PackedWeight

NARROWEST_RUN = 32


class TritonAffine(Kernel):
    """Products with group-wise integers of 2, 3, 4 and 8 bits, with zero-points or offsets."""

    name: ClassVar[str] = "triton"
    priority: ClassVar[int] = 20
    groups: ClassVar[bool] = True

    def supports(self, spec: KernelSpec) -> Verdict:
        """See `Kernel.supports`."""
        if spec.layout != "affine":
            return Verdict.no(f"runs affine weights, not {spec.layout}")
        return Verdict.all(
            [
                triton_verdict(),
                device_verdict(spec.device, spec.capability),
                dtype_verdict(spec.dtype),
                _weight_verdict(spec),
            ]
        )

    def arrange(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """See `Kernel.arrange`."""
        return arrange(cast("AffineWeight", weight))

    def restore(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """See `Kernel.restore`."""
        return restore(cast("AffineWeight", weight))

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """See `Kernel.linear`."""
        affine: Any = weight
        return operators.multiply(
            x,
            affine.words,
            affine.scales,
            affine.zeros,
            affine.segments,
            affine.order,
            affine.bits,
            affine.group_size,
            run_of(affine.groups, affine.run, affine.act_order),
            affine.shape[0],
        )

    def linear_chosen(
        self, weight: PackedWeight, stacks: Mapping[str, Tensor], x: Tensor, chosen: Tensor
    ) -> Tensor:
        """See `Kernel.linear_chosen`."""
        affine: Any = weight
        if "order" in stacks or "segments" in stacks or x.dtype not in FLOATS:
            return super().linear_chosen(weight, stacks, x, chosen)
        run = run_of(affine.groups, affine.run, affine.act_order)
        sizes = (affine.bits, affine.group_size, run, affine.shape[0])
        return multiply_chosen(stacks, x, chosen, sizes)


def _weight_verdict(spec: KernelSpec) -> Verdict:
    params = spec.params
    if params["bits"] not in PLANES:
        return Verdict.no(f"has 2, 3, 4 and 8 bits, not {params['bits']}")
    run = run_of(params["groups"], params["run"], params["act_order"])
    if spec.shape[1] % NARROWEST_RUN or run < NARROWEST_RUN:
        return Verdict.no(
            f"needs groups whose sizes are multiples of {NARROWEST_RUN}; {spec.shape[1]} columns "
            f"in groups of {params['group_size']} share them in runs of {run}"
        )
    return Verdict.yes()
