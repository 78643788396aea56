"""Refusing tensors that are not what a layout needs, in words for whoever reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantload.errors import CheckpointError

if TYPE_CHECKING:
    from quantload.quantizers.spec import ModuleSpec, TensorHeader

FLOATS = ("F16", "BF16", "F32")
"""Names of the dtypes that scales may have."""


def require(where: str, found: Iterable[str], needed: Iterable[str], method: str) -> None:
    """Refuse a module that lacks tensors.

    Args:
        where: the module.
        found: names of its tensors.
        needed: names it must have.
        method: what needs them, for the message.

    Raises:
        CheckpointError: one is missing.
    """
    have = set(found)
    missing = [name for name in needed if name not in have]
    if missing:
        raise CheckpointError(
            f"{where}: {' and '.join(f'{where}.{name}' for name in missing)} missing; a {method} "
            f"layer needs {', '.join(needed)}, found {', '.join(sorted(have)) or 'none'}"
        )


def check_dtype(name: str, header: TensorHeader, allowed: Iterable[str]) -> None:
    """Refuse a tensor of another dtype.

    Raises:
        CheckpointError: the dtype is not one of `allowed` (names as in safetensors).
    """
    choices = tuple(allowed)
    if header.dtype not in choices:
        raise CheckpointError(
            f"{name}: dtype {header.dtype}, expected {' or '.join(choices)}; the tensor is not "
            f"what the quantization config says"
        )


def check_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...], why: str) -> None:
    """Refuse a tensor of another shape.

    Raises:
        CheckpointError: the shapes differ; `why` says where the expected one comes from.
    """
    if tuple(found) != tuple(expected):
        raise CheckpointError(
            f"{name}: shape {list(found)}, expected {list(expected)} ({why}); the file is damaged "
            f"or its quantization config belongs to another one"
        )


def check_module(spec: ModuleSpec, found: tuple[int, int]) -> None:
    """Refuse tensors of a layer of another shape than the module's.

    Raises:
        CheckpointError: `spec` has a shape and it is not `found`.
    """
    if spec.shape is not None and tuple(spec.shape) != found:
        raise CheckpointError(
            f"{spec.name}: packed with shape {list(found)}, the module has {list(spec.shape)}; the "
            f"tensors are damaged or those of another module"
        )


def check_rank(headers: Mapping[str, TensorHeader], where: str, rank: int = 2) -> None:
    """Refuse tensors that are not matrices.

    Raises:
        CheckpointError: one has another number of dimensions, or none of its own.
    """
    for leaf, header in headers.items():
        if len(header.shape) != rank or 0 in header.shape:
            raise CheckpointError(
                f"{where}.{leaf}: shape {list(header.shape)}, expected {rank} dimensions, "
                f"none of them empty"
            )


def check_scales(name: str, scales: Tensor) -> None:
    """Refuse scales that are no numbers.

    Raises:
        CheckpointError: one is NaN or infinite.
    """
    finite = torch.isfinite(scales)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        where = [int(i) for i in (~finite).nonzero()[0]]
        raise CheckpointError(
            f"{name}: {bad} of {scales.numel()} values are NaN or infinite (the first at {where}); "
            f"the file is damaged or the quantization failed"
        )


def check_g_idx(name: str, g_idx: Tensor, groups: int) -> None:
    """Refuse group numbers outside of the groups there are.

    Raises:
        CheckpointError: a value is negative or not below `groups`.
    """
    low, high = int(g_idx.min()), int(g_idx.max())
    if low < 0 or high >= groups:
        raise CheckpointError(
            f"{name}: group numbers from {low} to {high}, expected 0 to {groups - 1} (the scales "
            f"have {groups} groups); the file is damaged or its group_size is another"
        )
