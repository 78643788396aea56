"""The products as operators of torch, for tracing and for gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quantload_kernels_cpu import product


@torch.library.custom_op("quantload_cpu::linear", mutates_args=(), device_types="cpu")
def linear(
    x: Tensor, storage: Sequence[Tensor], layout: str, sizes: Sequence[int], rows: int
) -> Tensor:
    """See `product.linear`."""
    return product.linear(x, storage, layout, sizes, rows)


@linear.register_fake
def _(
    x: Tensor,
    storage: Sequence[Tensor],  # noqa: ARG001  the signature is the operator's
    layout: str,  # noqa: ARG001  likewise
    sizes: Sequence[int],  # noqa: ARG001  likewise
    rows: int,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], rows))


@torch.library.custom_op("quantload_cpu::linear_gradient", mutates_args=(), device_types="cpu")
def linear_gradient(
    grad: Tensor, storage: Sequence[Tensor], layout: str, sizes: Sequence[int], columns: int
) -> Tensor:
    """See `product.gradient`."""
    return product.gradient(grad, storage, layout, sizes, columns)


@linear_gradient.register_fake
def _(
    grad: Tensor,
    storage: Sequence[Tensor],  # noqa: ARG001  the signature is the operator's
    layout: str,  # noqa: ARG001  likewise
    sizes: Sequence[int],  # noqa: ARG001  likewise
    columns: int,
) -> Tensor:
    return grad.new_empty((*grad.shape[:-1], columns))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  torch's
    x, storage, layout, sizes, _ = inputs
    ctx.save_for_backward(*storage)
    ctx.weight = (layout, sizes, x.shape[-1])


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    layout, sizes, columns = ctx.weight
    storage = list(ctx.saved_tensors)
    found = linear_gradient(grad, storage, layout, sizes, columns)
    return found, [None] * len(storage), None, None, None


linear.register_autograd(_backward, setup_context=_remember)
