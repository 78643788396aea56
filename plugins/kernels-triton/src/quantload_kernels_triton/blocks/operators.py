"""The kernels of weights in blocks as operators of torch.

`quantload_triton::blocks_linear` and `quantload_triton::blocks_dequantize`. Importing this
module registers them; triton itself is imported when one of them runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantload_kernels_triton.availability import interpreting
from quantload_kernels_triton.blocks.form import Form

_LIBRARY = torch.library.Library("quantload_triton", "FRAGMENT")
_WEIGHT = (
    "Tensor low, Tensor? high, Tensor scales, Tensor? steps, Tensor? minima, "
    "int bits, int zero, bool offsets, int shared, int out_features"
)
_LIBRARY.define(f"blocks_linear(Tensor x, {_WEIGHT}) -> Tensor")
_LIBRARY.define(f"blocks_dequantize({_WEIGHT}, int in_features, ScalarType dtype) -> Tensor")


def blocks_linear(
    x: Tensor,
    low: Tensor,
    high: Tensor | None,
    scales: Tensor,
    steps: Tensor | None,
    minima: Tensor | None,
    bits: int,
    zero: int,
    offsets: bool,
    shared: int,
    out_features: int,
) -> Tensor:
    """`x @ W.T` in `x.dtype`.

    Args:
        x: `[..., in_features]`, floating point.
        low: int16 words, see `arrange.arrange_codes`, as is `high`.
        high: int16 words of the bits above the low four, or None.
        scales: float16, see `Form.scales_shape`.
        steps: int32, see `Form.steps_shape`, or None.
        minima: int32, see `Form.minima_shape`, or None.
        bits: see `Form`, as are `zero`, `offsets` and `shared` (`Form.steps`).
        zero: see `bits`.
        offsets: see `bits`.
        shared: see `bits`.
        out_features: rows of the weight.

    Returns:
        `[..., out_features]`.
    """
    from quantload_kernels_triton.blocks import launch

    form = Form(bits, zero, offsets, shared)
    weight = launch.Blocks(low, high, scales, steps, minima, form, out_features, x.shape[-1])
    y = launch.linear(x.reshape(-1, x.shape[-1]), weight)
    return y.view(*x.shape[:-1], out_features)


def blocks_dequantize(
    low: Tensor,
    high: Tensor | None,
    scales: Tensor,
    steps: Tensor | None,
    minima: Tensor | None,
    bits: int,
    zero: int,
    offsets: bool,
    shared: int,
    out_features: int,
    in_features: int,
    dtype: torch.dtype,
) -> Tensor:
    """The weight `[out_features, in_features]` as `dtype`; see `blocks_linear`."""
    from quantload_kernels_triton.blocks import launch

    form = Form(bits, zero, offsets, shared)
    weight = launch.Blocks(low, high, scales, steps, minima, form, out_features, in_features)
    return launch.decode(weight, dtype)


@torch.library.register_fake("quantload_triton::blocks_linear", lib=_LIBRARY)
def _linear_fake(x: Tensor, *weight: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight[-1]))


@torch.library.register_fake("quantload_triton::blocks_dequantize", lib=_LIBRARY)
def _dequantize_fake(low: Tensor, *weight: Any) -> Tensor:
    rows, columns, dtype = weight[-3:]
    return low.new_empty((rows, columns), dtype=dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  torch's
    ctx.save_for_backward(*inputs[1:6])
    ctx.sizes = (*inputs[6:], inputs[0].shape[-1])


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    matrix = torch.ops.quantload_triton.blocks_dequantize(
        *ctx.saved_tensors, *ctx.sizes, grad.dtype
    )
    return (grad @ matrix, *(None,) * 10)


torch.library.register_autograd(
    "quantload_triton::blocks_linear", _gradient, setup_context=_keep, lib=_LIBRARY
)
for _key in ("CUDA", "CPU") if interpreting() else ("CUDA",):
    _LIBRARY.impl("blocks_linear", blocks_linear, _key)
    _LIBRARY.impl("blocks_dequantize", blocks_dequantize, _key)
