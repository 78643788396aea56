"""`TritonRows8`: the kernel of integers of 8 bits with a magnitude for each row.

The layout "bitsandbytes_8bit" is known here by its name and its tensors alone: `codes`
int8 `[out_features, in_features]` and `scales` float32 `[out_features]`, of which a row is
`codes * scales / 127`.

The product is that with the dequantized weight, in floating point. The library of that
layout also rounds the activations to 8 bits, and to keep the error of that small it looks
for outliers among them; here they are multiplied as they are. So the result is closer to
the exact product, nothing depends on values, and a CUDA graph can hold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from quantload.kernels import Kernel, KernelSpec
from quantload.verdict import Verdict
from quantload_kernels_triton import operators, words
from quantload_kernels_triton.arrange import WIDEST_RUN, to_pairs
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

NARROWEST = 32
MIDDLE = 128


class TritonRows8(Kernel):
    """Products with LLM.int8 weights, in floating point."""

    name: ClassVar[str] = "triton_rows8"
    priority: ClassVar[int] = 20
    groups: ClassVar[bool] = True

    def supports(self, spec: KernelSpec) -> Verdict:
        """See `Kernel.supports`."""
        if spec.layout != "bitsandbytes_8bit":
            return Verdict.no(f"runs bitsandbytes_8bit weights, not {spec.layout}")
        columns = spec.shape[1]
        even = Verdict.yes()
        if columns % NARROWEST or not columns:
            even = Verdict.no(f"needs a multiple of {NARROWEST} columns, not {columns}")
        return Verdict.all(
            [
                triton_verdict(),
                device_verdict(spec.device, spec.capability),
                dtype_verdict(spec.dtype),
                even,
            ]
        )

    def arrange(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """Words of `codes + 128`, the scales of codes, and the magnitudes as they were."""
        w: Any = weight
        geometry = Geometry(8, *w.shape)
        parts = [
            words.pack(_biased(w.codes[words.rows_of(tiles, geometry)]), geometry)
            for tiles in words.tile_runs(geometry)
        ]
        return {
            "words": parts[0] if len(parts) == 1 else torch.cat(parts),
            "scales": to_pairs((w.scales / 127).unsqueeze(1), geometry),
            "kept_scales": w.scales,
        }

    def restore(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """See `Kernel.restore`."""
        w: Any = weight
        geometry = Geometry(8, *w.shape)
        parts = [
            _biased(words.unpack(w.words[tiles], geometry)) for tiles in words.tile_runs(geometry)
        ]
        codes = parts[0] if len(parts) == 1 else torch.cat(parts)
        return {"codes": codes[: geometry.rows].view(torch.int8), "scales": w.kept_scales}

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """See `Kernel.linear`."""
        w: Any = weight
        return operators.multiply(
            x, w.words, w.scales, None, None, None, 8, w.shape[1], WIDEST_RUN, w.shape[0]
        )

    def linear_chosen(
        self, weight: PackedWeight, stacks: Mapping[str, Tensor], x: Tensor, chosen: Tensor
    ) -> Tensor:
        """See `Kernel.linear_chosen`."""
        if x.dtype not in FLOATS:
            return super().linear_chosen(weight, stacks, x, chosen)
        w: Any = weight
        return multiply_chosen(stacks, x, chosen, (8, w.shape[1], WIDEST_RUN, w.shape[0]))


def _biased(codes: Tensor) -> Tensor:
    """Signed bytes plus 128 as unsigned ones, and back: the highest bit turned over."""
    return codes.view(torch.uint8) ^ MIDDLE
