"""Checkpoint tensors of an LLM.int8 layer to a weight and back, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quantload.plugin import CheckpointError, ModuleSpec
from quantload_bitsandbytes.checks import expect, expect_finite
from quantload_bitsandbytes.weights import Bnb8Weight

ROW_MAJOR = 0
"""The only `weight_format` that is written today; others were tiled for old GPUs."""


def pack(
    spec: ModuleSpec, tensors: Mapping[str, Tensor], dtype: torch.dtype, threshold: float
) -> Bnb8Weight:
    """A weight from the tensors of one module; they are kept as they are.

    Args:
        spec: the module; its shape, where known, must be the tensor's.
        tensors: name without the module prefix -> tensor.
        dtype: compute dtype.
        threshold: outlier threshold of the product.

    Raises:
        CheckpointError: a tensor is not what it should be.
    """
    codes, scales = tensors["weight"], tensors["SCB"]
    shape = tuple(codes.shape) if spec.shape is None else tuple(spec.shape)
    expect(f"{spec.name}.weight", codes, torch.int8, shape)
    expect(f"{spec.name}.SCB", scales, torch.float32, shape[:1])
    expect_finite(f"{spec.name}.SCB", scales)
    layout = tensors.get("weight_format")
    if layout is not None:
        _check_format(f"{spec.name}.weight_format", layout)
    return Bnb8Weight(
        shape,
        dtype,
        codes=codes,
        scales=scales,
        threshold=threshold,
        format_shape=None if layout is None else tuple(layout.shape),
    )


def unpack(weight: Bnb8Weight) -> dict[str, Tensor]:
    """The tensors `pack` was given, as views of the weight's storage."""
    stored = weight.storage()
    tensors = {"weight": stored["codes"], "SCB": stored["scales"]}
    if weight.format_shape is not None:
        tensors["weight_format"] = torch.full(
            weight.format_shape, ROW_MAJOR, dtype=torch.uint8, device=weight.device
        )
    return tensors


def empty(spec: ModuleSpec, dtype: torch.dtype, threshold: float) -> Bnb8Weight:
    """A weight without bytes, on the meta device."""
    assert spec.shape is not None
    known = not spec.tensors or "weight_format" in spec.tensors
    return Bnb8Weight(
        tuple(spec.shape),
        dtype,
        codes=torch.empty(spec.shape, dtype=torch.int8, device="meta"),
        scales=torch.empty(spec.shape[0], dtype=torch.float32, device="meta"),
        threshold=threshold,
        format_shape=() if known else None,
    )


def _check_format(where: str, layout: Tensor) -> None:
    if layout.dtype != torch.uint8 or layout.numel() != 1:
        raise CheckpointError(
            f"{where}: expected one uint8, found {layout.dtype} {list(layout.shape)}"
        )
    if int(layout) != ROW_MAJOR:
        raise CheckpointError(
            f"{where}: expected {ROW_MAJOR} (rows), found {int(layout)}; the tiled layouts of old "
            f"bitsandbytes versions are not readable, save the model again with bitsandbytes 0.45 "
            f"or newer"
        )
