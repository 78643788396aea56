"""Launching the kernel whose warps share the work; see `jit.hopper`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantload_kernels_triton.availability import capability, interpreting, version
from quantload_kernels_triton.splitting import split_of

if TYPE_CHECKING:
    from quantload_kernels_triton.launch import Arranged
    from quantload_kernels_triton.plans import Plan

OLDEST = (3, 6)
NEWEST = (3, 6)
"""Versions of triton with which it was tested; its language is not stable yet."""

COLUMNS = 64
"""Columns of a step."""

REGISTERS = 104
"""Registers of a thread that decodes; those that multiply get the rest."""

_SCALES = {
    torch.float16: (torch.float16,),
    torch.bfloat16: (torch.bfloat16, torch.float16),
}


@cache
def _module() -> Any:
    """The kernel; None where it cannot be."""
    if interpreting() or torch.version.hip is not None or not OLDEST <= version() <= NEWEST:
        return None
    try:
        from quantload_kernels_triton.jit import hopper
    except (ImportError, AttributeError):  # no Gluon, or another than is known here
        return None
    return hopper


def suits(weight: Arranged, dtype: torch.dtype) -> bool:
    """Whether the kernel can multiply with a weight on the device where that is."""
    device = weight.words.device
    return (
        weight.bits == 4
        and not weight.table
        and not weight.adds
        and weight.run >= COLUMNS
        and weight.in_features % COLUMNS == 0
        and weight.scales.dtype in _SCALES.get(dtype, ())
        and device.type == "cuda"
        and capability(device)[0] == 9
        and _module() is not None
    )


def product(x: Tensor, weight: Arranged, plan: Plan) -> Tensor:
    """`x @ W.T`.

    Args:
        x: `[rows, in_features]`.
        weight: one that `suits`.
        plan: of kernel "hopper".
    """
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    geometry = weight.geometry
    rows = x.shape[0]
    if x.stride(1) != 1 or x.stride(0) % 8 or x.data_ptr() % 16:  # it is copied in 16 bytes
        x = x.clone(memory_format=torch.contiguous_format)
    y = x.new_empty((rows, geometry.rows))
    steps = geometry.columns // COLUMNS
    tall = 16 * plan.tiles
    split = split_of((plan.rows, tall), (rows, geometry.rows), steps, plan.parts, plan.rest)
    room = split.room(y)
    settings = weight.settings()
    tile = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    _module().hopper_rows[(split.programs,)](
        TensorDescriptor.from_tensor(x, [plan.rows, COLUMNS], tile),
        *weight.tensors(),
        y,
        room,
        rows,
        geometry.columns,
        geometry.rows,
        geometry.tiles,
        steps,
        weight.scales.shape[0],
        split.across,
        split.whole,
        split.parts,
        split.each,
        **{name: settings[name] for name in ("GROUP", "RUN", "LISTED", "SYMMETRIC")},
        TWO=weight.scales.dtype != x.dtype,
        SPLIT=split.rest > 0,
        TALL=tall,
        ROWS=plan.rows,
        STAGES=plan.stages,
        MAKERS=plan.makers,
        REGISTERS=REGISTERS,
        W=plan.warps,
        num_warps=plan.warps,
        launch_pdl=True,
    )
    return split.add(room, y)
