"""The bytes of a tensor as safetensors stores them."""

from __future__ import annotations

import torch

from quantload.checkpoint.dtypes import PER_ITEM, dtype_name
from quantload.checkpoint.paths import show
from quantload.errors import CheckpointError


def bytes_of(name: str, tensor: torch.Tensor) -> tuple[str, tuple[int, ...], memoryview]:
    """The safetensors dtype, the shape in the header, and the bytes in row-major order.

    Views of any stride are written as what they show. The memory is the tensor's
    own where it is contiguous on the CPU, and valid while the tensor is.

    Raises:
        CheckpointError: the tensor has no bytes (meta, fake), is sparse or of a
            subclass that keeps them elsewhere, or has a dtype the format lacks.
    """
    if not isinstance(tensor, torch.Tensor):
        raise CheckpointError(
            f"tensor {show(name)}: expected a torch.Tensor, found {type(tensor).__name__}"
        )
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise CheckpointError(
            f"tensor {show(name)}: expected a dense tensor with data, found layout "
            f"{tensor.layout}, dtype {tensor.dtype} on {tensor.device}"
        )
    try:
        dtype = dtype_name(tensor.dtype)
    except CheckpointError as error:
        raise CheckpointError(f"tensor {show(name)}: {error}") from error
    shape = tuple(tensor.shape)
    if dtype in PER_ITEM:
        if not shape:
            raise CheckpointError(f"tensor {show(name)}: {dtype} needs at least one dimension")
        shape = (*shape[:-1], shape[-1] * PER_ITEM[dtype])
    dense = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    if not _has_bytes(dense):
        raise CheckpointError(
            f"tensor {show(name)}: {type(tensor).__name__} keeps its data in other tensors; "
            f"save those"
        )
    return dtype, shape, dense.reshape(-1).view(torch.uint8).numpy().data


def _has_bytes(dense: torch.Tensor) -> bool:
    """Whether a tensor has memory; wrappers around other tensors and fake ones have none."""
    try:
        storage = dense.untyped_storage()
        return storage.device.type == "cpu" and (dense.numel() == 0 or dense.data_ptr() != 0)
    except (RuntimeError, NotImplementedError):
        return False
