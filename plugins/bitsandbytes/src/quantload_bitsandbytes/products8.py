"""Products with an 8-bit weight as `torch.library` ops, with a fake and a gradient each.

Two of them: LLM.int8, and the product with the dequantized weight.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.kernels.watched import watched
from quantload_bitsandbytes.int8 import TO_FLOAT, dequantize_rows, int8_linear
from quantload_bitsandbytes.products4 import rows_at_a_time


def product_in_int8(x: Tensor, codes: Tensor, scales: Tensor, threshold: float) -> Tensor:
    """`x @ W.T` by LLM.int8; see `int8.int8_linear`.

    Args:
        x: float `[..., in_features]`.
        codes: int8 `[out_features, in_features]`.
        scales: float32 `[out_features]`.
        threshold: outlier threshold; 0 for none.
    """
    rows = x.reshape(-1, x.shape[-1])
    shape = (*x.shape[:-1], codes.shape[0])
    if not rows.numel() or not codes.numel():
        return x.new_zeros(shape)
    with torch.autocast(x.device.type, enabled=False):
        if x.is_cuda and threshold > 0 and torch.cuda.is_current_stream_capturing():
            # A CUDA graph cannot ask which columns hold outliers.
            return F.linear(x, dequantize_rows(codes, scales, x.dtype))
        return int8_linear(rows, codes, scales, threshold).view(shape)


def product_in_float(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """`x @ W.T` in floating point, some rows of the weight at a time.

    Args:
        x: float `[..., in_features]`.
        codes: int8 `[out_features, in_features]`.
        scales: float32 `[out_features]`.
    """
    rows, columns = codes.shape
    out = torch.empty(*x.shape[:-1], rows, dtype=x.dtype, device=x.device)
    step = rows_at_a_time(rows, columns, 1, x.dtype.itemsize)
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            if x.dtype == torch.float32:
                # The codes are exact in float32, and a product has fewer elements to scale.
                product = F.linear(x, codes[start:stop].float())
                torch.mul(product, scales[start:stop] * TO_FLOAT, out=out[..., start:stop])
                continue
            part = dequantize_rows(codes[start:stop], scales[start:stop], x.dtype)
            out[..., start:stop] = F.linear(x, part)
    return out


def _fake(x: Tensor, codes: Tensor, *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], codes.shape[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  by name
    ctx.save_for_backward(*inputs[1:3])
    ctx.others = len(inputs) - 1


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    codes, scales = ctx.saved_tensors
    return (grad @ dequantize_rows(codes, scales, grad.dtype), *(None,) * ctx.others)


llm_int8 = torch.library.custom_op(
    "quantload_bitsandbytes::llm_int8",
    product_in_int8,
    mutates_args=(),
    schema="(Tensor x, Tensor codes, Tensor scales, float threshold) -> Tensor",
)
linear_8bit = torch.library.custom_op(
    "quantload_bitsandbytes::linear_8bit",
    product_in_float,
    mutates_args=(),
    schema="(Tensor x, Tensor codes, Tensor scales) -> Tensor",
)
for _op in (llm_int8, linear_8bit):
    _op.register_fake(_fake)
    _op.register_autograd(_backward, setup_context=_save)


def multiply_8bit(x: Tensor, codes: Tensor, scales: Tensor, threshold: float | None) -> Tensor:
    """`x @ W.T`, by LLM.int8 with a threshold, in floating point with None."""
    seen = watched(x)
    found: Tensor
    if threshold is None:
        found = (linear_8bit if seen else product_in_float)(x, codes, scales)
    else:
        found = (llm_int8 if seen else product_in_int8)(x, codes, scales, threshold)
    return found
