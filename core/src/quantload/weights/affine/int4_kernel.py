"""`torch-int4`: torch's own int4 product for CPUs, for weights of 4 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from quantload.kernels.contract import Kernel, KernelSpec
from quantload.verdict import Verdict
from quantload.weights.affine import int4_order
from quantload.weights.affine.int4_product import int4_linear, product
from quantload.weights.affine.planes import pack_planes

if TYPE_CHECKING:
    from quantload.weights.affine.weight import AffineWeight
    from quantload.weights.packed import PackedWeight

_OWN = ("int4", "pairs", "run_groups", "order")
_SHORTEST_RUN = 32


class TorchInt4(Kernel):
    """Multiplies packed for few rows of bfloat16, and decodes for everything else.

    Torch's operator computes `(code - 8) * scale + zero` per run of 32, 64, 128 or 256
    columns, with both factors in the dtype of `x`. It is right in bfloat16 and fast
    there only, so other dtypes are decoded.
    """

    name: ClassVar[str] = "torch-int4"
    priority: ClassVar[int] = 10

    def supports(self, spec: KernelSpec) -> Verdict:
        """See `Kernel.supports`."""
        if spec.layout != "affine":
            return Verdict.no(f"it multiplies affine weights, not {spec.layout!r}")
        if spec.device.type != "cpu":
            return Verdict.no(f"it runs on cpu, not on {spec.device.type}")
        bits, run = spec.params.get("bits"), spec.params.get("run", 0)
        if bits != 4:
            return Verdict.no(f"it multiplies codes of 4 bits, not of {bits}")
        if spec.dtype != torch.bfloat16:
            return Verdict.no(
                f"it is fast in bfloat16 and the compute dtype is {spec.dtype}",
                "model.to(torch.bfloat16)",
            )
        if run < _SHORTEST_RUN:
            return Verdict.no(f"groups must be multiples of {_SHORTEST_RUN} columns")
        block = int4_order.block_rows()
        if block == 0:
            return Verdict.no("torch has no vectorized int4 product for this CPU")
        if spec.shape[0] % block:
            return Verdict.no(f"the rows must be a multiple of {block}, not {spec.shape[0]}")
        return Verdict.yes()

    def arrange(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """See `Kernel.arrange`. The codes change their order; everything else is kept."""
        affine = cast("AffineWeight", weight)
        columns = affine.shape[1]
        index = affine.column_groups()
        if index is None:
            index = torch.arange(columns) // affine.group_size
        order = torch.argsort(index, stable=True) if affine.act_order else None
        codes = affine.plain_codes()
        if order is not None:
            index, codes = index[order], codes[:, order]
        runs = index[:: affine.run].clone(memory_format=torch.contiguous_format)
        kept = {name: tensor for name, tensor in weight._parameters.items() if name != "codes"}
        return {
            **kept,
            "int4": int4_order.pack(codes, int4_order.block_rows()).view(affine.shape[0], -1),
            "pairs": _pairs(affine, runs),
            "run_groups": runs.to(torch.int32),
            "order": None if order is None else order.to(torch.int32),
        }

    def restore(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """See `Kernel.restore`."""
        storage = weight._parameters
        packed, order = storage["int4"], storage["order"]
        assert packed is not None
        half = int4_order.block_rows() // 2
        codes = int4_order.rows_of(packed.view(-1, 2 * packed.shape[1], half))
        if order is not None:
            codes = torch.empty_like(codes).index_copy_(1, order.long(), codes)
        kept = {name: tensor for name, tensor in storage.items() if name not in _OWN}
        return {"codes": pack_planes(codes, 4), **kept}

    def codes_of_rows(self, weight: PackedWeight, ids: Tensor) -> Tensor:
        """Codes uint8 `[len(ids), in_features]` of some rows; nothing else is restored."""
        packed, order = weight._parameters["int4"], weight._parameters["order"]
        assert packed is not None
        codes = int4_order.some_rows(packed, ids, int4_order.block_rows())
        if order is not None:
            codes = torch.empty_like(codes).index_copy_(1, order.long(), codes)
        return codes

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """See `Kernel.linear`."""
        own: dict[str, Any] = weight._parameters
        run: Any = product
        if torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled()):
            run = int4_linear
        elif x.dtype == torch.bfloat16 and x.numel() == x.shape[-1] and own["order"] is None:
            # One token: what Python does here is a good part of the time.
            pairs, columns = own["pairs"], x.shape[-1]
            row: Tensor = torch._weight_int4pack_mm_for_cpu(
                x.reshape(1, columns).contiguous(),
                own["int4"],
                columns // pairs.shape[0],
                pairs,
            )
            return row.view(*x.shape[:-1], row.shape[1])
        out: Tensor = run(
            x,
            own["int4"],
            own["pairs"],
            own["scales"],
            own["zeros"],
            own["offsets"],
            own["run_groups"],
            own["order"],
        )
        return out


def _pairs(weight: AffineWeight, runs: Tensor) -> Tensor:
    """Scale and value of code 8 per run, bfloat16 `[runs, out_features, 2]`."""
    scales = weight.scales.to(torch.float32)
    if weight.offsets is not None:
        middle = 8 * scales + weight.offsets.to(torch.float32)
    else:
        middle = scales * (8 - weight.zero_points().to(torch.float32))
    both = torch.stack([scales, middle], dim=-1).to(torch.bfloat16)
    return both[:, runs].transpose(0, 1).contiguous()
