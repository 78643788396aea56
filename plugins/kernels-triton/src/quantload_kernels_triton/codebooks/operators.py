"""The kernels of weights made of codebook entries as operators of torch.

`quantload_triton::codebooks_linear` and `quantload_triton::codebooks_dequantize`. Importing
this module registers them; triton itself is imported when one of them runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantload_kernels_triton.availability import interpreting

_LIBRARY = torch.library.Library("quantload_triton", "FRAGMENT")
_WEIGHT = "Tensor codes, Tensor codebooks, Tensor scales"
_LIBRARY.define(f"codebooks_linear(Tensor x, {_WEIGHT}) -> Tensor")
_LIBRARY.define(f"codebooks_dequantize({_WEIGHT}, ScalarType dtype) -> Tensor")


def codebooks_linear(x: Tensor, codes: Tensor, codebooks: Tensor, scales: Tensor) -> Tensor:
    """`x @ W.T` in `x.dtype`; eight columns of a row are `scale * sum(entries)`.

    Entries are rounded to `x.dtype` before they are multiplied, and sums of several of them
    where there are more than 16 rows; scales multiply the sums of products, in float32.

    Args:
        x: `[..., in_features]`, floating point.
        codes: int8 or int16 `[out_features, in_features / 8, count]`, wrapped.
        codebooks: float `[count, entries, 1, 8]`, entries a power of two.
        scales: float `[out_features, 1, 1, 1]`.

    Returns:
        `[..., out_features]`.
    """
    from quantload_kernels_triton.codebooks import launch

    y = launch.linear(x.reshape(-1, x.shape[-1]), launch.Coded(codes, codebooks, scales))
    return y.view(*x.shape[:-1], codes.shape[0])


def codebooks_dequantize(
    codes: Tensor, codebooks: Tensor, scales: Tensor, dtype: torch.dtype
) -> Tensor:
    """The weight `[out_features, in_features]` as `dtype`; see `codebooks_linear`."""
    from quantload_kernels_triton.codebooks import launch

    return launch.decode(launch.Coded(codes, codebooks, scales), dtype)


@torch.library.register_fake("quantload_triton::codebooks_linear", lib=_LIBRARY)
def _linear_fake(x: Tensor, codes: Tensor, *rest: Tensor) -> Tensor:  # noqa: ARG001  the operator's
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@torch.library.register_fake("quantload_triton::codebooks_dequantize", lib=_LIBRARY)
def _dequantize_fake(codes: Tensor, *rest: Any) -> Tensor:
    return codes.new_empty((codes.shape[0], codes.shape[1] * 8), dtype=rest[-1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  torch's
    ctx.save_for_backward(*inputs[1:])


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    matrix = torch.ops.quantload_triton.codebooks_dequantize(*ctx.saved_tensors, grad.dtype)
    return grad @ matrix, None, None, None


torch.library.register_autograd(
    "quantload_triton::codebooks_linear", _gradient, setup_context=_keep, lib=_LIBRARY
)
for _key in ("CUDA", "CPU") if interpreting() else ("CUDA",):
    _LIBRARY.impl("codebooks_linear", codebooks_linear, _key)
    _LIBRARY.impl("codebooks_dequantize", codebooks_dequantize, _key)
