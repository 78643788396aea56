"""The kernels as operators of torch: traced by `torch.compile`, captured in CUDA graphs.

`quantload_triton::affine_linear` and `quantload_triton::affine_dequantize`. Importing
this module registers them; triton itself is imported when one of them runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantload.kernels.watched import watched
from quantload_kernels_triton.availability import interpreting

_LIBRARY = torch.library.Library("quantload_triton", "DEF")
_WEIGHT = (
    "Tensor words, Tensor scales, Tensor? zeros, Tensor? segments, Tensor? order, "
    "int bits, int group_size, int run, int out_features"
)
_LIBRARY.define(f'affine_linear(Tensor x, {_WEIGHT}, str table="") -> Tensor')
_LIBRARY.define(
    f'affine_dequantize({_WEIGHT}, int in_features, ScalarType dtype, str table="") -> Tensor'
)


def affine_linear(
    x: Tensor,
    words: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    segments: Tensor | None,
    order: Tensor | None,
    bits: int,
    group_size: int,
    run: int,
    out_features: int,
    table: str = "",
) -> Tensor:
    """`x @ W.T` in `x.dtype`.

    Args:
        x: `[..., in_features]`, floating point.
        words: see `arrange.arrange`, as are `scales`, `zeros`, `segments` and `order`.
        scales: `[groups, tiles, 8, 2]`.
        zeros: int16, of the shape of the scales; None or empty where all are in the middle.
            Of a float dtype they are offsets: what is added to `code * scale`.
        segments: int32 `[in_features // run]`, or None.
        order: int32 `[in_features]`, or None.
        bits: 2, 3, 4 or 8.
        group_size: columns of a group.
        run: columns that share a group, aligned, once they are sorted; a multiple of 32.
        out_features: rows of the weight.
        table: what codes index, of `jit.tables.TABLES`; "" where they are integers.

    Returns:
        `[..., out_features]`.
    """
    from quantload_kernels_triton import launch

    flat = x.reshape(-1, x.shape[-1])
    weight = launch.Arranged(
        words, scales, zeros, segments, bits, group_size, run, out_features, x.shape[-1], table
    )
    y = launch.linear(flat, weight, order)
    return y.view(*x.shape[:-1], out_features)


def multiply(x: Tensor, *weight: Any) -> Tensor:
    """`affine_linear`, as an op where something looks on."""
    if watched(x):
        product: Tensor = torch.ops.quantload_triton.affine_linear(x, *weight)
        return product
    return affine_linear(x, *weight)


def affine_dequantize(
    words: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    segments: Tensor | None,
    order: Tensor | None,
    bits: int,
    group_size: int,
    run: int,
    out_features: int,
    in_features: int,
    dtype: torch.dtype,
    table: str = "",
) -> Tensor:
    """The weight `[out_features, in_features]` as `dtype`; see `affine_linear`."""
    from quantload_kernels_triton import launch

    weight = launch.Arranged(
        words, scales, zeros, segments, bits, group_size, run, out_features, in_features, table
    )
    matrix = launch.decode(weight, dtype)
    if order is not None:
        matrix = torch.empty_like(matrix).index_copy_(1, order.long(), matrix)
    return matrix


@torch.library.register_fake("quantload_triton::affine_linear", lib=_LIBRARY)
def _linear_fake(x: Tensor, *weight: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight[8]))


@torch.library.register_fake("quantload_triton::affine_dequantize", lib=_LIBRARY)
def _dequantize_fake(words: Tensor, *weight: Any) -> Tensor:
    rows, columns, dtype = weight[7:10]
    return words.new_empty((rows, columns), dtype=dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  torch's
    ctx.save_for_backward(*inputs[1:6])
    ctx.others = len(inputs) - 1
    ctx.sizes = (*inputs[6:10], inputs[0].shape[-1])
    ctx.table = inputs[10] if len(inputs) > 10 else ""


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    matrix = torch.ops.quantload_triton.affine_dequantize(
        *ctx.saved_tensors, *ctx.sizes, grad.dtype, ctx.table
    )
    return (grad @ matrix, *(None,) * ctx.others)


torch.library.register_autograd(
    "quantload_triton::affine_linear", _gradient, setup_context=_keep, lib=_LIBRARY
)
for _key in ("CUDA", "CPU") if interpreting() else ("CUDA",):
    _LIBRARY.impl("affine_linear", affine_linear, _key)
    _LIBRARY.impl("affine_dequantize", affine_dequantize, _key)
