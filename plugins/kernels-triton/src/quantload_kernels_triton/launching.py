"""What every launch of a kernel needs, whatever weight it is for."""

from __future__ import annotations

import contextlib

import torch
import triton.language as tl
from torch import Tensor

from quantload_kernels_triton.availability import interpreting, version
from quantload_kernels_triton.jit.many_rows import add_parts
from quantload_kernels_triton.jit.pack import pack_rows

PTX = not interpreting() and torch.version.hip is None
"""Whether kernels can have inline PTX."""
FIRST = version() < (3, 7)
"""How triton hands out the dimensions of a load; see `jit.loads`."""
HALVES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
"""In which dtypes kernels compute."""
_ADDED_AT_ONCE = 1024
_PACKED_AT_ONCE = 1024


def pack_activations(
    x: Tensor, order: Tensor | None, eights: int, per_eight: int, overlap: bool
) -> Tensor:
    """Up to `8 * eights` activations in the order of an operand; see `jit.pack.pack_rows`."""
    packed = x.new_empty((eights, per_eight))
    pack_rows[(-(-per_eight // _PACKED_AT_ONCE), eights)](
        x,
        x if order is None else order,
        packed,
        x.shape[0],
        x.shape[1],
        x.stride(0),
        per_eight,
        GATHER=order is not None,
        OVERLAP=overlap,
        BLOCK=_PACKED_AT_ONCE,
        num_warps=4,
    )
    return packed


def add_up(out: Tensor, y: Tensor, overlap: bool) -> Tensor:
    """`y`, the sum of the parts in `out` where it is another tensor."""
    if out is not y:
        add_parts[(-(-y.numel() // _ADDED_AT_ONCE),)](
            out,
            y,
            y.numel(),
            COUNT=out.shape[0],
            BLOCK=_ADDED_AT_ONCE,
            OVERLAP=overlap,
            num_warps=4,
            **launch_options(overlap),
        )
    return y


def overlaps(device: torch.device) -> bool:
    """Whether a kernel may begin while the one before it ends (programmatic launch)."""
    return PTX and torch.cuda.get_device_capability(device) >= (9, 0)


def launch_options(overlap: bool) -> dict[str, bool]:
    """What a launch that may begin early is given beside its sizes."""
    return {"launch_pdl": True} if overlap else {}


def on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device, whatever device the tensors are on."""
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        return torch.cuda.device(tensor.device)
    return contextlib.nullcontext()
