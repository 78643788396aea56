"""What every checkpoint tensor is asked before it is believed."""

from __future__ import annotations

import torch
from torch import Tensor

from quantload.plugin import CheckpointError


def expect(where: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Raise `CheckpointError` unless `tensor` has this dtype and shape.

    Args:
        where: name of the tensor, for the error.
        tensor: what was found.
        dtype: what it should be of.
        shape: what it should be like.
    """
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"{where}: expected {_name(dtype)} {list(shape)}, found {_name(tensor.dtype)} "
            f"{list(tensor.shape)}"
        )


def expect_finite(where: str, tensor: Tensor) -> None:
    """Raise `CheckpointError` if a float tensor holds a NaN or an infinity."""
    if not tensor.numel():
        return
    low, high = torch.aminmax(tensor)  # a NaN comes through both
    if not (torch.isfinite(low) & torch.isfinite(high)):
        bad = (~torch.isfinite(tensor)).nonzero()[0].tolist()
        raise CheckpointError(
            f"{where}: expected finite numbers, found {tensor[tuple(bad)].item()} at {bad}; "
            f"the file is damaged, or the weight held such a number before it was quantized"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
