"""The reference product: dequantize and multiply, and again for the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from quantload.weights.packed import PackedWeight


def linear_through(weight: PackedWeight, x: Tensor) -> Tensor:
    """`x @ W.T` in `x.dtype` by way of a dequantized weight, which is not kept.

    Args:
        weight: the packed weight.
        x: `[..., in_features]`, floating point.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        product: Tensor = _DequantizedLinear.apply(x, weight)  # type: ignore[no-untyped-call]
        return product
    return F.linear(x, weight.dequantize(x.dtype))


class _DequantizedLinear(torch.autograd.Function):
    """Dequantizes once more in the backward pass, so that no float weight is kept alive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: PackedWeight) -> Tensor:
        ctx.weight = weight
        return F.linear(x, weight.dequantize(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ ctx.weight.dequantize(grad.dtype), None
