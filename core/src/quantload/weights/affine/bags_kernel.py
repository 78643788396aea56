"""`torch-bags`: the embedding bags that torch ships for x86, for weights of any width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from quantload.kernels.contract import Kernel, KernelSpec
from quantload.verdict import Verdict
from quantload.weights import bags
from quantload.weights.affine.bags_product import bags_linear, crossing, product
from quantload.weights.affine.planes import pack_planes

if TYPE_CHECKING:
    from quantload.weights.affine.weight import AffineWeight
    from quantload.weights.packed import PackedWeight

_DENSE = torch.contiguous_format
_OWN = ("table", "factors", "shifts", "added", "starts", "run_groups", "order")


class TorchBags(Kernel):
    """Sums codes in float32, as they are stored, for few rows; decodes for many.

    Codes of 2, 4 and 8 bits take what they took. Those of 3 bits are kept in 4, and those
    of 5, 6 and 7 in 8: on a CPU their decoding takes longer than the product of the float
    weight, at each token.
    """

    name: ClassVar[str] = "torch-bags"
    priority: ClassVar[int] = 5

    def supports(self, spec: KernelSpec) -> Verdict:
        """See `Kernel.supports`."""
        if spec.layout != "affine":
            return Verdict.no(f"it multiplies affine weights, not {spec.layout!r}")
        if spec.device.type != "cpu":
            return Verdict.no(f"it runs on cpu, not on {spec.device.type}")
        if not bags.available():
            return Verdict.no("torch has no fast embedding bags for this CPU")
        bits = int(spec.params["bits"])
        if not crossing(bags.stored_bits(bits), spec.dtype):
            return Verdict.no(f"it would not be faster with {bits} bits in {spec.dtype}")
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
        middle, stored = 1 << (affine.bits - 1), bags.stored_bits(affine.bits)
        shifts = None
        if affine.offsets is None and not affine.symmetric:
            shifts = (middle - affine.zero_points().to(torch.int16)).to(affine.scales.dtype)
        groups = torch.arange(affine.groups)
        kept = {name: tensor for name, tensor in weight._parameters.items() if name != "codes"}
        return {
            **kept,
            "table": bags.pack(codes, stored, middle),
            "factors": bags.spread(affine.scales, stored),
            "shifts": None if shifts is None else bags.spread(shifts, stored),
            "added": None if affine.offsets is None else bags.spread(affine.offsets, stored),
            "starts": torch.searchsorted(index, groups).to(torch.int32),
            "run_groups": index[:: affine.run].clone(memory_format=_DENSE).to(torch.int32),
            "order": None if order is None else order.to(torch.int32),
        }

    def restore(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """See `Kernel.restore`."""
        affine, storage = cast("AffineWeight", weight), weight._parameters
        table, order = storage["table"], storage["order"]
        assert table is not None
        rows, columns = affine.shape
        codes = bags.codes_of(table, bags.stored_bits(affine.bits), rows, columns)
        if order is not None:
            codes = torch.empty_like(codes).index_copy_(1, order.long(), codes)
        kept = {name: tensor for name, tensor in storage.items() if name not in _OWN}
        return {"codes": pack_planes(codes, affine.bits), **kept}

    def codes_of_rows(self, weight: PackedWeight, ids: Tensor) -> Tensor:
        """Codes uint8 `[len(ids), in_features]` of some rows; nothing else is restored."""
        affine, storage = cast("AffineWeight", weight), weight._parameters
        table, order = storage["table"], storage["order"]
        assert table is not None
        rows, columns = affine.shape
        codes = bags.codes_of_rows(table, bags.stored_bits(affine.bits), rows, columns, ids)
        if order is not None:
            codes = torch.empty_like(codes).index_copy_(1, order.long(), codes)
        return codes

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """See `Kernel.linear`."""
        affine, own = cast("AffineWeight", weight), cast("dict[str, Any]", weight._parameters)
        seen = torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled())
        run: Any = bags_linear if seen else product
        alike = own["order"] is None and affine.shape[1] == affine.groups * affine.group_size
        out: Tensor = run(
            x,
            own["table"],
            own["factors"],
            own["shifts"],
            own["added"],
            own["starts"],
            own["run_groups"],
            own["order"],
            affine.bits,
            affine.shape[0],
            affine.group_size if alike else 0,
        )
        return out
