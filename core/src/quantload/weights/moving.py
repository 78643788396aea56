"""Applying what `nn.Module._apply` hands around to bytes that must stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quantload.errors import UnsupportedOperationError


def destination(
    fn: Callable[[Tensor], Tensor], device: torch.device, dtype: torch.dtype
) -> tuple[torch.device, torch.dtype]:
    """Device and compute dtype that `fn` (a move or a cast) asks for."""
    probe = fn(torch.empty(1, dtype=dtype, device=device))
    return probe.device, probe.dtype if probe.is_floating_point() else dtype


def moved(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """`tensor` with the move of `fn` and without its cast.

    A cast leaves integers alone, so `fn` is shown the bytes.

    Raises:
        UnsupportedOperationError: `fn` converts even integers (`module.type(...)`).
    """
    flat = tensor.detach().reshape(-1)
    if flat.stride(0) != 1:  # a single element may have any stride and counts as contiguous
        flat = flat.clone(memory_format=torch.contiguous_format)
    result = fn(flat.view(torch.uint8))
    if result.dtype != torch.uint8:
        raise UnsupportedOperationError(
            f"packed storage cannot be converted to {result.dtype}; use .to(dtype) to change "
            f"the compute dtype"
        )
    return result.view(tensor.dtype).reshape(tensor.shape)
