"""`TritonCodebook`: the kernel of codes of 4 bits that stand for the entries of a table.

The layout "bitsandbytes_4bit" is known here by its name and its tensors alone: `packed`, two
codes a byte, the first in the high half, flat over rows; `absmax`, a magnitude for each
`block_size` of them; with double quantization that magnitude is itself
`nested_quant_map[absmax] * nested_absmax + offset`.

Where blocks do not cross rows, that is a group-wise weight whose codes index a table, and
runs in the kernels of group-wise integers. A magnitude in 8 bits is taken apart once, when
the weight is arranged; its bytes are kept beside, for canonical storage must come back
exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from quantload.kernels import Kernel, KernelSpec
from quantload.verdict import Verdict
from quantload_kernels_triton import operators, words
from quantload_kernels_triton.arrange import WIDEST_RUN, from_pairs, to_pairs
from quantload_kernels_triton.availability import (
    FLOATS,
    device_verdict,
    dtype_verdict,
    triton_verdict,
)
from quantload_kernels_triton.chosen import multiply_chosen
from quantload_kernels_triton.geometry import Geometry

if TYPE_CHECKING:
    from quantload.weights.packed import PackedWeight

NARROWEST_BLOCK = 32
TABLES = ("nf4", "fp4")


class TritonCodebook(Kernel):
    """Products with NF4 and FP4 weights."""

    name: ClassVar[str] = "triton_codebook"
    priority: ClassVar[int] = 20
    groups: ClassVar[bool] = True

    def supports(self, spec: KernelSpec) -> Verdict:
        """See `Kernel.supports`."""
        if spec.layout != "bitsandbytes_4bit":
            return Verdict.no(f"runs bitsandbytes_4bit weights, not {spec.layout}")
        return Verdict.all(
            [
                triton_verdict(),
                device_verdict(spec.device, spec.capability),
                dtype_verdict(spec.dtype),
                _weight_verdict(spec),
            ]
        )

    def arrange(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """Words as `arrange.arrange` makes them, float32 scales, and what else there was."""
        w: Any = weight
        geometry = Geometry(4, *w.shape)
        nested = w.nested_absmax is not None
        return {
            "words": words.from_bytes(w.packed, geometry),
            "scales": to_pairs(w.block_absmax().view(w.shape[0], -1), geometry),
            "quant_map": w.quant_map,
            "nested_absmax": w.nested_absmax,
            "nested_quant_map": w.nested_quant_map,
            "kept_absmax": w.absmax if nested else None,
        }

    def restore(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """See `Kernel.restore`."""
        w: Any = weight
        geometry = Geometry(4, *w.shape)
        absmax = w.kept_absmax
        return {
            "packed": words.to_bytes(w.words, geometry),
            "absmax": from_pairs(w.scales, geometry).view(-1) if absmax is None else absmax,
            "quant_map": w.quant_map,
            "nested_absmax": w.nested_absmax,
            "nested_quant_map": w.nested_quant_map,
        }

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """See `Kernel.linear`."""
        w: Any = weight
        block = w.state.block_size
        return operators.multiply(
            x,
            w.words,
            w.scales,
            None,
            None,
            None,
            4,
            block,
            min(block, WIDEST_RUN),
            w.shape[0],
            w.state.quant_type,
        )

    def linear_chosen(
        self, weight: PackedWeight, stacks: Mapping[str, Tensor], x: Tensor, chosen: Tensor
    ) -> Tensor:
        """See `Kernel.linear_chosen`."""
        w: Any = weight
        if x.dtype not in FLOATS:
            return super().linear_chosen(weight, stacks, x, chosen)
        block = w.state.block_size
        sizes = (4, block, min(block, WIDEST_RUN), w.shape[0])
        return multiply_chosen(stacks, x, chosen, sizes, w.state.quant_type)


def _weight_verdict(spec: KernelSpec) -> Verdict:
    params = spec.params
    block, columns = params["block_size"], spec.shape[1]
    if not params["standard"] or params["quant_type"] not in TABLES:
        return Verdict.no("the quant_map is neither that of NF4 nor that of FP4")
    if block < NARROWEST_BLOCK or columns % block:
        return Verdict.no(
            f"needs blocks of {NARROWEST_BLOCK} or more that do not cross rows; rows of {columns} "
            f"columns are in blocks of {block}"
        )
    return Verdict.yes()
