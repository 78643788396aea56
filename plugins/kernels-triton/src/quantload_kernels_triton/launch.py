"""Launching the kernels: plans, grids and scratch memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton.language as tl
from torch import Tensor

from quantload_kernels_triton import warpgroups
from quantload_kernels_triton.availability import capability
from quantload_kernels_triton.geometry import Geometry
from quantload_kernels_triton.jit.decoded import decoded
from quantload_kernels_triton.jit.few_rows import few_rows
from quantload_kernels_triton.jit.many_rows import many_rows
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
from quantload_kernels_triton.plans import MOST_FEW, Plan, family, fitted, plan_for
from quantload_kernels_triton.splitting import STEP

WARPGROUPS = ("BITS", "GROUP", "RUN", "LISTED", "SYMMETRIC", "TABLE")
"""Settings that the kernel of warpgroups has, too."""


@dataclass(frozen=True)
class Arranged:
    """A weight as the kernels take it; see `operators.affine_linear`."""

    words: Tensor
    scales: Tensor
    zeros: Tensor | None
    segments: Tensor | None
    bits: int
    group_size: int
    run: int
    out_features: int
    in_features: int
    table: str = ""

    @property
    def geometry(self) -> Geometry:
        """Sizes of the arrangement."""
        return Geometry(self.bits, self.out_features, self.in_features)

    @property
    def adds(self) -> bool:
        """Whether offsets stand in the place of zero-points."""
        return self.zeros is not None and self.zeros.is_floating_point()

    def settings(self) -> dict[str, Any]:
        """What the kernels are compiled for."""
        geometry = self.geometry
        return {
            "BITS": self.bits,
            "UNIT": geometry.unit,
            "GROUP": 0 if self.scales.shape[0] == 1 else self.group_size,
            "RUN": self.run,
            "LISTED": self.segments is not None,
            "SYMMETRIC": self.zeros is None or self.zeros.numel() == 0,
            "TABLE": self.table or None,
            "PTX": PTX,
            "FIRST": FIRST,
        }

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Words, scales, zeros and segments, something in the place of what is absent."""
        zeros = self.words if self.zeros is None else self.zeros
        segments = self.words if self.segments is None else self.segments
        return self.words, self.scales, zeros, segments


def plan_of(rows: int, weight: Arranged, dtype: torch.dtype = torch.float16) -> Plan:
    """The plan for so many rows of activations of a dtype on the device of the weight."""
    device = weight.words.device
    found = capability(device) if device.type == "cuda" else (8, 0)
    # Neither tables nor other widths were timed with warpgroups.
    timed = rows > MOST_FEW and weight.bits == 4 and not weight.table
    wide = timed and suits(weight, dtype)
    return plan_for(family(found), weight.geometry, weight.run, rows, wide)


def linear(x: Tensor, weight: Arranged, order: Tensor | None, plan: Plan | None = None) -> Tensor:
    """`x @ W.T` for x `[rows, in_features]`; `plan` overrides the tables."""
    rows = x.shape[0]
    if rows == 0:
        return x.new_empty((0, weight.out_features))
    with on_device_of(x):
        if x.dtype not in HALVES:
            return F.linear(_gathered(x, order), decode(weight, x.dtype))
        plan = plan or plan_of(rows, weight, x.dtype)
        if plan.kernel == "few" and rows <= MOST_FEW:
            return _few(x, weight, order, plan)
        x = _gathered(x, order)
        if plan.kernel == "decoded":
            return F.linear(x, decode(weight, x.dtype, plan))
        if plan.kernel == "warpgroups":
            return _warpgroups(x, weight, plan)
        return _many(x, weight, plan)


def decode(weight: Arranged, dtype: torch.dtype, plan: Plan | None = None) -> Tensor:
    """The weight as a matrix `[out_features, in_features]`, its columns sorted."""
    if dtype not in (*HALVES, torch.float32):
        return decode(weight, torch.float32).to(dtype)
    geometry = weight.geometry
    plan = fitted(plan or Plan("decoded", units=2, warps=4), geometry, weight.run)
    width = plan.units * plan.warps
    shape = (geometry.rows, geometry.columns)
    out = torch.empty(shape, dtype=dtype, device=weight.words.device)
    grid = (-(-geometry.units // width), geometry.tiles // plan.tiles)
    with on_device_of(out):
        decoded[grid](
            *weight.tensors(),
            out,
            geometry.columns,
            geometry.rows,
            geometry.tiles,
            geometry.units,
            weight.scales.shape[0],
            **weight.settings(),
            SCALING=_scaling(weight, dtype),
            MASKED=missing(geometry, width),
            R=plan.tiles,
            U=plan.units,
            W=plan.warps,
            DT=tl.float16 if weight.table else HALVES.get(dtype, tl.float16),
            num_warps=plan.warps,
            num_stages=1,
        )
    return out


def _few(x: Tensor, weight: Arranged, order: Tensor | None, plan: Plan) -> Tensor:
    geometry = weight.geometry
    rows = x.shape[0]
    eights = 1 if rows <= 8 else 2 if rows <= 16 else 4
    x = x if x.stride(1) == 1 else x.contiguous()
    y = x.new_empty((rows, geometry.rows))
    width = plan.warps * plan.units * plan.ahead
    packed = plan.packed or order is not None
    stride = x.stride(0)
    overlap = packed and overlaps(x.device)
    if packed:
        stride = -(-geometry.units // width) * width * geometry.unit * 8
        x = pack_activations(x, order, eights, stride, overlap)
    few_rows[(geometry.tiles // plan.tiles,)](
        x,
        *weight.tensors(),
        y,
        rows,
        geometry.columns,
        geometry.rows,
        stride,
        geometry.tiles,
        geometry.units,
        weight.scales.shape[0],
        **weight.settings(),
        PACKED=packed,
        MASKED=missing(geometry, width),
        R=plan.tiles,
        U=plan.units,
        C=plan.ahead,
        N8=eights,
        W=plan.warps,
        OVERLAP=overlap,
        num_warps=plan.warps,
        num_stages=1,
        **launch_options(overlap),
    )
    return y


def _many(x: Tensor, weight: Arranged, plan: Plan) -> Tensor:
    geometry = weight.geometry
    rows = x.shape[0]
    x = x if x.stride(1) == 1 else x.contiguous()
    y = x.new_empty((rows, geometry.rows))
    width = plan.units * plan.ahead
    each = -(-geometry.units // (plan.parts * width)) * width
    parts = -(-geometry.units // each)
    overlap = parts > 1 and overlaps(x.device)
    out = y if parts == 1 else y.new_empty((parts, *y.shape), dtype=torch.float32)
    tall = plan.tiles * plan.warps
    many_rows[(-(-rows // plan.rows), -(-geometry.tiles // tall), parts)](
        x,
        *weight.tensors(),
        out,
        rows,
        geometry.columns,
        geometry.rows,
        x.stride(0),
        geometry.tiles,
        geometry.units,
        weight.scales.shape[0],
        each,
        **weight.settings(),
        SCALING=_scaling(weight, x.dtype, many=True),
        MASKED=missing(geometry, width) or int(geometry.tiles % tall != 0),
        ROWS=plan.rows,
        R=plan.tiles,
        U=plan.units,
        W=plan.warps,
        C=plan.ahead,
        STAGES=plan.stages,
        OVERLAP=overlap,
        num_warps=plan.warps,
        num_stages=plan.stages,
    )
    return add_up(out, y, overlap)


def suits(weight: Arranged, dtype: torch.dtype) -> bool:
    """Whether warpgroups can multiply with a weight."""
    return (
        weight.run >= STEP
        and dtype in HALVES
        and _scaling(weight, dtype, many=True) != 2
        and warpgroups.able(weight.words.device, weight.in_features)
    )


def _warpgroups(x: Tensor, weight: Arranged, plan: Plan) -> Tensor:
    geometry = weight.geometry
    settings = weight.settings()
    constants = {name: settings[name] for name in WARPGROUPS}
    return warpgroups.product(
        warpgroups.AFFINE,
        x,
        weight.tensors(),
        (geometry.rows, geometry.columns),
        (geometry.tiles, geometry.units, weight.scales.shape[0]),
        {**constants, "SCALING": _scaling(weight, x.dtype, many=True)},
        plan,
    )


def missing(geometry: Geometry, width: int) -> int:
    """`MASKED` of the kernels: what may be missing when `width` units are taken at once."""
    if geometry.padded_columns != geometry.columns:
        return 2
    return int(geometry.units % width != 0)


def _gathered(x: Tensor, order: Tensor | None) -> Tensor:
    return x if order is None else x.index_select(1, order)


def _scaling(weight: Arranged, out: torch.dtype, many: bool = False) -> int:
    """See `scaled_plane`."""
    if weight.adds:
        return 2
    if many and weight.scales.shape[0] == 1:
        return 3
    if weight.scales.dtype == out and out in HALVES:
        return 0
    # An entry of a table is 1 at most: what two numbers of float16 miss, the weight would, too.
    return 1 if (many if weight.table else out == torch.bfloat16) else 2
