"""Launching the kernels of `jit.warpgroups`, whose warpgroups decode for their own products."""

from __future__ import annotations

import importlib
import itertools
import secrets
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from quantload_kernels_triton.availability import capability, interpreting, version
from quantload_kernels_triton.splitting import PROCESSORS, STEP, split_of

OLDEST = (3, 6)
NEWEST = (3, 6)
"""Versions of triton with which they were tested; their language is not stable yet."""

REGISTERS = {1: 240, 2: 240, 3: 160, 4: 112}
"""Registers of a thread that multiplies, by how many warpgroups do."""

MARKS = itertools.count(secrets.randbits(60) | 1 << 60)
"""What flags become; see `jit.warpgroups.sums.gather`. What memory happens to hold is not that."""

AFFINE = ("quantload_kernels_triton.jit.warpgroups.affine", "affine_rows")
BLOCKS = ("quantload_kernels_triton.blocks.jit.warpgroups", "blocks_rows")


class Sizes(Protocol):
    """What a plan says of such a kernel; see `plans.Plan`."""

    @property
    def stack(self) -> int:
        """Warpgroups one below the other."""

    @property
    def ways(self) -> int:
        """Warpgroups that share the columns of one of these."""

    @property
    def rows(self) -> int:
        """Rows of activations of a program."""

    @property
    def stages(self) -> int:
        """Depth of the ring of activations."""

    @property
    def parts(self) -> int:
        """Into how many parts the columns are split."""

    @property
    def rest(self) -> bool:
        """Whether only those of tiles that are too few for all processors are."""


@cache
def _kernel(module: str, name: str) -> Any:
    """A kernel; None where it cannot be."""
    if interpreting() or torch.version.hip is not None or not OLDEST <= version() <= NEWEST:
        return None
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):  # no Gluon, or another than is known here
        return None


def able(device: torch.device, columns: int) -> bool:
    """Whether the kernels run on a device, with weights of so many columns."""
    return (
        columns % STEP == 0
        and device.type == "cuda"
        and capability(device)[0] == 9
        and _kernel(*AFFINE) is not None
    )


def product(
    kernel: tuple[str, str],
    x: Tensor,
    tensors: Sequence[Tensor],
    shape: tuple[int, int],
    numbers: Sequence[int],
    constants: Mapping[str, Any],
    plan: Sizes,
) -> Tensor:
    """`x @ W.T`.

    Args:
        kernel: `AFFINE` or `BLOCKS`.
        x: `[rows, in_features]`.
        tensors: what the weight consists of.
        shape: of the weight, `(out_features, in_features)`; `able` has said yes to it.
        numbers: further arguments of the kernel, the first of them how many tiles there are.
        constants: what it is compiled for, but for the sizes.
        plan: those.
    """
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    rows = x.shape[0]
    if x.stride(1) != 1 or x.stride(0) % 8 or x.data_ptr() % 16:  # it is copied in 16 bytes
        x = x.clone(memory_format=torch.contiguous_format)
    y = x.new_empty((rows, shape[0]))
    sizes = (plan.rows, 64 * plan.stack)
    steps = shape[1] // STEP
    split = split_of(sizes, (rows, shape[0]), steps, plan.parts, plan.rest)
    tile = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    shares = split.shares
    programs = min(shares, PROCESSORS) if plan.ways == 1 else shares
    _kernel(*kernel)[(programs,)](
        TensorDescriptor.from_tensor(x, [plan.rows, STEP], tile),
        *tensors,
        y,
        split.room(y),
        split.flags(y, plan.stack),
        rows,
        shape[1],
        shape[0],
        *numbers,
        shares,
        split.across,
        split.whole,
        split.parts,
        split.each,
        next(MARKS),
        **constants,
        STACK=plan.stack,
        WAYS=plan.ways,
        ROWS=plan.rows,
        STAGES=plan.stages,
        SPLIT=split.rest > 0,
        REGISTERS=REGISTERS[plan.stack * plan.ways],
        num_warps=4,
        launch_pdl=True,
    )
    return y
