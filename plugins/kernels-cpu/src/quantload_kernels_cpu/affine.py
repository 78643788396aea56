"""`cpu-affine`: products with group-wise integers in their canonical storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from quantload.kernels import Kernel, KernelSpec
from quantload.verdict import Verdict
from quantload.weights.affine.planes import pack_planes, unpack_planes
from quantload.weights.autograd import linear_through
from quantload_kernels_cpu.affine_names import fits, name_of, sizes_of
from quantload_kernels_cpu.availability import DTYPES, dtype_verdict, machine_verdict
from quantload_kernels_cpu.entry import multiply

if TYPE_CHECKING:
    from quantload.weights.affine import AffineWeight
    from quantload.weights.packed import PackedWeight

_OWN = ("sorted_codes", "order", "run_scales", "run_shifts")


class CpuAffine(Kernel):
    """Codes are read where they are; only with act-order are they sorted by group first."""

    name: ClassVar[str] = "cpu-affine"
    priority: ClassVar[int] = 40

    def supports(self, spec: KernelSpec) -> Verdict:
        """See `Kernel.supports`."""
        if spec.layout != "affine":
            return Verdict.no(f"runs group-wise integers, not {spec.layout}")
        if spec.device.type != "cpu":
            return Verdict.no(f"runs on cpu, not on {spec.device.type}")
        here = Verdict.all([machine_verdict(), dtype_verdict(spec.dtype)])
        return _group_verdict(spec) if here else here

    def arrange(self, weight: PackedWeight) -> dict[str, Tensor | None] | None:
        """See `Kernel.arrange`. None but with act-order, and where a tensor has gaps."""
        affine = cast("AffineWeight", weight)
        tensors = dict(weight._parameters)
        if not affine.act_order:
            if all(t is None or t.is_contiguous() for t in tensors.values()):
                return None
            return {name: None if t is None else t.contiguous() for name, t in tensors.items()}
        index = affine.column_groups()
        assert index is not None
        order = torch.argsort(index, stable=True)
        index = index[order]
        codes = pack_planes(affine.plain_codes()[:, order], affine.bits)
        shifts = affine.offsets if affine.offsets is not None else affine.zeros
        scales: Tensor | None = None
        if not torch.equal(index, torch.arange(len(index)) // affine.group_size):
            runs = index[:: affine.run]
            scales = affine.scales[:, runs]
            shifts = None if shifts is None else shifts[:, runs]
        else:
            shifts = None
        del tensors["codes"]
        ordered = torch.equal(order, torch.arange(len(order)))
        return {
            **{name: None if t is None else t.contiguous() for name, t in tensors.items()},
            "sorted_codes": codes,
            "order": None if ordered else order.to(torch.int32),
            "run_scales": scales,
            "run_shifts": shifts,
        }

    def restore(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """See `Kernel.restore`."""
        storage: dict[str, Tensor | None] = dict(weight._parameters)
        if "sorted_codes" not in storage:
            return storage
        affine = cast("AffineWeight", weight)
        codes = self._plain(affine, slice(None))
        kept = {name: tensor for name, tensor in storage.items() if name not in _OWN}
        return {"codes": pack_planes(codes, affine.bits), **kept}

    def codes_of_rows(self, weight: PackedWeight, ids: Tensor) -> Tensor:
        """Codes uint8 `[len(ids), in_features]` of some rows; nothing else is restored."""
        return self._plain(cast("AffineWeight", weight), ids)

    @staticmethod
    def _plain(weight: AffineWeight, rows: Any) -> Tensor:
        storage = weight._parameters
        packed = storage.get("sorted_codes")
        if packed is None:
            return unpack_planes(weight.codes[rows], weight.bits, weight.shape[1])
        codes, order = unpack_planes(packed[rows], weight.bits, weight.shape[1]), storage["order"]
        return (
            codes if order is None else torch.empty_like(codes).index_copy_(1, order.long(), codes)
        )

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """See `Kernel.linear`."""
        if x.dtype not in DTYPES:
            return linear_through(weight, x)
        affine, own = cast("AffineWeight", weight), cast("dict[str, Any]", weight._parameters)
        codes, scales, offsets = own.get("codes"), own["scales"], own["offsets"]
        group = affine.group_size
        shifts = offsets if offsets is not None else None if affine.symmetric else own["zeros"]
        if codes is None:
            codes = own["sorted_codes"]
            if own["order"] is not None:
                x = x.index_select(-1, own["order"])
            if own["run_scales"] is not None:
                group, scales = affine.run, own["run_scales"]
                shifts = None if shifts is None else own["run_shifts"]
        rows, columns = weight._shape
        groups = scales.shape[1]
        group = 0 if groups == 1 else group
        shift_dtype = None if shifts is None else shifts.dtype
        name = name_of(affine.bits, group, scales.dtype, shift_dtype)
        sizes = sizes_of(affine.bits, columns, groups)
        storage = [codes, scales] if shifts is None else [codes, scales, shifts]
        return multiply(x, storage, name, sizes, rows)


def _group_verdict(spec: KernelSpec) -> Verdict:
    params = spec.params
    bits, group = int(params["bits"]), int(params["group_size"])
    if params["act_order"]:
        group = int(params["run"])
    elif params["groups"] == 1:
        group = 0
    if params["scale_dtype"] not in DTYPES:
        return Verdict.no(f"has no code for scales of {params['scale_dtype']}")
    if fits(bits, group, not params["symmetric"]):
        return Verdict.yes()
    return Verdict.no(f"has no code for {bits} bits in groups of {group} columns")
