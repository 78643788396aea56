"""Launching the kernels of weights in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton.language as tl
from torch import Tensor

from quantload_kernels_triton import warpgroups
from quantload_kernels_triton.blocks.form import SUPER, Form
from quantload_kernels_triton.blocks.jit.few_rows import few_rows, pack_with_sums
from quantload_kernels_triton.blocks.jit.many_rows import decoded, many_rows
from quantload_kernels_triton.blocks.plans import (
    LEAST_SHARED,
    MOST_FEW,
    SHARED,
    Plan,
    fitted,
    plan_for,
)
from quantload_kernels_triton.launching import (
    FIRST,
    HALVES,
    PTX,
    add_up,
    launch_options,
    on_device_of,
    overlaps,
    pack_activations,
)


@dataclass(frozen=True)
class Blocks:
    """A weight as the kernels take it; see `operators.blocks_linear`."""

    low: Tensor
    high: Tensor | None
    scales: Tensor
    steps: Tensor | None
    minima: Tensor | None
    form: Form
    out_features: int
    in_features: int

    @property
    def units(self) -> int:
        """Units of low bits in a tile."""
        return self.low.shape[1]

    @property
    def tiles(self) -> int:
        """Tiles of rows."""
        return self.low.shape[0]

    def settings(self) -> dict[str, Any]:
        """What the kernels are compiled for."""
        return {
            "BITS": self.form.bits,
            "ZERO": self.form.zero,
            "OFFSETS": self.form.offsets,
            "STEPS": self.form.steps,
            "PTX": PTX,
            "FIRST": FIRST,
        }

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors, something in the place of what is absent."""
        high = self.low if self.high is None else self.high
        steps = self.low if self.steps is None else self.steps
        minima = self.low if self.minima is None else self.minima
        return self.low, high, self.scales, steps, minima

    def sizes(self) -> tuple[int, int, int, int, int]:
        """Tiles, units, units of high bits, pairs of steps, groups of scales."""
        high = 0 if self.high is None else self.high.shape[1]
        pairs = 0 if self.steps is None else self.steps.shape[1]
        return self.tiles, self.units, high, pairs, self.scales.shape[1]


def plan_of(rows: int, weight: Blocks) -> Plan:
    """The plan for so many rows of activations."""
    shape = weight.out_features, weight.in_features
    return plan_for(weight.form, *shape, rows, _shared(weight.low.device))


def linear(x: Tensor, weight: Blocks, plan: Plan | None = None) -> Tensor:
    """`x @ W.T` for x `[rows, in_features]`; `plan` overrides the tables."""
    rows = x.shape[0]
    if rows == 0:
        return x.new_empty((0, weight.out_features))
    with on_device_of(x):
        if x.dtype not in HALVES:
            return F.linear(x, decode(weight, x.dtype))
        if plan is None:
            plan = plan_of(rows, weight)
        else:
            shape = weight.out_features, weight.in_features
            plan = fitted(plan, weight.form, *shape, _shared(x.device))
        if plan.kernel == "few" and rows <= MOST_FEW:
            return _few(x, weight, plan)
        if plan.kernel == "decoded":
            return F.linear(x, decode(weight, x.dtype))
        if plan.kernel == "warpgroups":
            return _warpgroups(x, weight, plan)
        return _many(x, weight, plan)


def decode(weight: Blocks, dtype: torch.dtype) -> Tensor:
    """The weight as a matrix `[out_features, in_features]`, rounded once from float32."""
    if dtype not in (*HALVES, torch.float32):
        return decode(weight, torch.float32).to(dtype)
    out = torch.empty(
        (weight.out_features, weight.in_features), dtype=dtype, device=weight.low.device
    )
    warps, chunks = 4, 4
    grid = (-(-weight.in_features // (64 * chunks)), -(-weight.tiles // warps))
    with on_device_of(out):
        decoded[grid](
            *weight.tensors(),
            out,
            weight.in_features,
            weight.out_features,
            *weight.sizes(),
            **weight.settings(),
            MASKED=bool(weight.in_features % (64 * chunks) or weight.tiles % warps),
            C=chunks,
            R=1,
            W=warps,
            DT=HALVES.get(dtype, tl.float16),
            num_warps=warps,
            num_stages=1,
        )
    return out


def _few(x: Tensor, weight: Blocks, plan: Plan) -> Tensor:
    rows = x.shape[0]
    eights = 1 if rows <= 8 else 2 if rows <= 16 else 4
    x = x if x.stride(1) == 1 else x.contiguous()
    y = x.new_empty((rows, weight.out_features))
    width = plan.warps * plan.span
    stride = x.stride(0)
    overlap = plan.packed and overlaps(x.device)
    sums = x
    if plan.packed:
        stride = -(-weight.in_features // width) * width * 8
        if weight.form.steps and weight.form.offsets:
            x, sums = _packed_with_sums(x, eights, stride, overlap)
        else:
            x = pack_activations(x, None, eights, stride, overlap)
    few_rows[(weight.tiles // plan.tiles,)](
        x,
        sums,
        *weight.tensors(),
        y,
        rows,
        weight.in_features,
        weight.out_features,
        stride,
        *weight.sizes(),
        **weight.settings(),
        LOWS=plan.span // weight.form.unit,
        PACKED=plan.packed,
        MASKED=_missing(weight, width),
        R=plan.tiles,
        N8=eights,
        W=plan.warps,
        OVERLAP=overlap,
        num_warps=plan.warps,
        num_stages=1,
        **launch_options(overlap),
    )
    return y


def _packed_with_sums(
    x: Tensor, eights: int, per_eight: int, overlap: bool
) -> tuple[Tensor, Tensor]:
    """See `pack_with_sums`."""
    packed, sums = x.new_empty((eights, per_eight)), x.new_empty((eights, per_eight // 16))
    pack_with_sums[(per_eight // (8 * SUPER), eights)](
        x,
        packed,
        sums,
        x.shape[0],
        x.shape[1],
        x.stride(0),
        per_eight,
        OVERLAP=overlap,
        num_warps=4,
    )
    return packed, sums


def _many(x: Tensor, weight: Blocks, plan: Plan) -> Tensor:
    rows = x.shape[0]
    x = x if x.stride(1) == 1 else x.contiguous()
    y = x.new_empty((rows, weight.out_features))
    steps = -(-weight.in_features // 64)
    each = -(-steps // (plan.parts * plan.ahead)) * plan.ahead
    parts = -(-steps // each)
    overlap = parts > 1 and overlaps(x.device)
    out = y if parts == 1 else y.new_empty((parts, *y.shape), dtype=torch.float32)
    tall = plan.tiles * plan.warps
    many_rows[(-(-rows // plan.rows), -(-weight.tiles // tall), parts)](
        x,
        *weight.tensors(),
        out,
        rows,
        weight.in_features,
        weight.out_features,
        x.stride(0),
        *weight.sizes(),
        each,
        **weight.settings(),
        EXACT=not PTX,
        MASKED=bool(weight.in_features % (64 * plan.ahead) or weight.tiles % tall),
        ROWS=plan.rows,
        R=plan.tiles,
        W=plan.warps,
        C=plan.ahead,
        STAGES=plan.stages,
        OVERLAP=overlap,
        num_warps=plan.warps,
        num_stages=plan.stages,
    )
    return add_up(out, y, overlap)


def _warpgroups(x: Tensor, weight: Blocks, plan: Plan) -> Tensor:
    settings = weight.settings()
    constants = {name: settings[name] for name in ("BITS", "ZERO", "OFFSETS", "STEPS")}
    shape = weight.out_features, weight.in_features
    tensors, sizes = weight.tensors(), weight.sizes()
    return warpgroups.product(warpgroups.BLOCKS, x, tensors, shape, sizes, constants, plan)


def _shared(device: torch.device) -> int:
    """Bytes of shared memory that a program may have."""
    if device.type != "cuda":
        return LEAST_SHARED
    return SHARED.get(torch.cuda.get_device_capability(device), LEAST_SHARED)


def _missing(weight: Blocks, width: int) -> int:
    """`MASKED` of `few_rows`, whose programs take `width` columns at once."""
    if weight.in_features % weight.form.unit:
        return 2
    return int(weight.in_features % width != 0)
