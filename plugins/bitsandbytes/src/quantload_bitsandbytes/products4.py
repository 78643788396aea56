"""The product with a 4-bit weight as a `torch.library` op, with a fake and a gradient.

Being an op, it is opaque to `torch.compile`: a graph holds it whole. The gradient
reaches the input only; it takes the weight dequantized, in the dtype of the gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.kernels.watched import watched
from quantload_bitsandbytes import library
from quantload_bitsandbytes.dequantize4 import dequantize_4bit
from quantload_bitsandbytes.nested import NESTED_BLOCK_SIZE, dequantize_absmax

PART_BYTES = {4: 4 << 20, 2: 8 << 20}
"""Float bytes of a weight that are made at a time on a CPU, by size of an element.

They are to stay in its cache; but every part costs a few rendezvous of torch's threads,
and 16-bit products some preparation.
"""

_SCHEMA = (
    "(Tensor x, Tensor packed, Tensor absmax, Tensor quant_map, Tensor? nested_absmax, "
    "Tensor? nested_quant_map, float offset, int nested_block_size, str quant_type, "
    "int block_size, SymInt[] shape) -> Tensor"
)


def _absmax(
    absmax: Tensor,
    nested_absmax: Tensor | None,
    nested_quant_map: Tensor | None,
    offset: float,
    nested_block_size: int,
) -> Tensor:
    if nested_absmax is None or nested_quant_map is None:
        return absmax
    return dequantize_absmax(absmax, nested_absmax, nested_quant_map, offset, nested_block_size)


def _decode_part(
    packed: Tensor,
    absmax: Tensor,
    quant_map: Tensor,
    quant_type: str,
    block_size: int,
    n: int,
    dtype: torch.dtype,
) -> Tensor:
    """Decode `n` values on a CPU, by the library where it can; flat."""
    decoder = library.cpu_decoder(quant_type, dtype, block_size) if quant_type else None
    if decoder is None or n % block_size:
        return dequantize_4bit(packed, absmax, quant_map, block_size, n, dtype)
    out = torch.empty(n, dtype=dtype)
    decoder(packed, absmax, out)
    return out


def rows_at_a_time(rows: int, columns: int, block_size: int, itemsize: int) -> int:
    """How many rows to decode at a time, so that no block is cut."""
    whole = block_size // math.gcd(columns, block_size)
    fitting = max(PART_BYTES[itemsize] // max(columns * itemsize, 1), 1)
    return min(max(fitting // whole, 1) * whole, max(rows, 1))


def product_on_cpu(
    x: Tensor,
    packed: Tensor,
    absmax: Tensor,
    quant_map: Tensor,
    nested_absmax: Tensor | None,
    nested_quant_map: Tensor | None,
    offset: float,
    nested_block_size: int,
    quant_type: str,
    block_size: int,
    shape: list[int],
) -> Tensor:
    """`x @ W.T`, decoding some rows of the weight at a time.

    Args:
        x: float `[..., in_features]`.
        packed: uint8 `[ceil(n / 2)]`.
        absmax: float32 `[n_blocks]`, or its codes with double quantization.
        quant_map: float32 `[16]`.
        nested_absmax: float32 `[n_groups]` or None.
        nested_quant_map: float32 `[256]` or None.
        offset: see `dequantize_absmax`.
        nested_block_size: see `dequantize_absmax`.
        quant_type: whose table `quant_map` is; "" for neither.
        block_size: elements that share an absmax.
        shape: `(out_features, in_features)`.
    """
    rows, columns = shape
    scales = _absmax(absmax, nested_absmax, nested_quant_map, offset, nested_block_size)
    out = torch.empty(*x.shape[:-1], rows, dtype=x.dtype, device=x.device)
    step = rows_at_a_time(rows, columns, block_size, x.dtype.itemsize)
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            first, last = start * columns, stop * columns
            part = _decode_part(
                packed[first // 2 : (last + 1) // 2],
                scales[first // block_size : -(-last // block_size)],
                quant_map,
                quant_type,
                block_size,
                last - first,
                x.dtype,
            )
            out[..., start:stop] = F.linear(x, part.view(stop - start, columns))
    return out


def product_on_cuda(
    x: Tensor,
    packed: Tensor,
    absmax: Tensor,
    quant_map: Tensor,
    nested_absmax: Tensor | None,
    nested_quant_map: Tensor | None,
    offset: float,
    nested_block_size: int,
    quant_type: str,
    block_size: int,
    shape: list[int],
) -> Tensor:
    """`x @ W.T` by the library's kernels; the arguments are those of `product_on_cpu`."""
    columns = shape[1]
    ops = torch.ops.bitsandbytes
    codes, values, shift = None, None, None
    scales = absmax
    fused = hasattr(ops, "gemm_4bit") and columns % block_size == 0 and x.numel() > 0
    if nested_absmax is not None:
        if fused and nested_block_size == NESTED_BLOCK_SIZE:
            codes, values, scales = absmax, nested_quant_map, nested_absmax
            shift = torch.full((), offset, dtype=torch.float32, device=x.device)
        else:
            scales = _absmax(absmax, nested_absmax, nested_quant_map, offset, nested_block_size)
    with torch.autocast("cuda", enabled=False):
        if fused:
            product: Tensor = ops.gemm_4bit(
                x,
                packed.view(-1, 1),
                shape,
                scales,
                block_size,
                quant_type,
                None,
                codes,
                values,
                shift,
            )
            return product
        one_row = x.numel() == columns
        if one_row and columns % block_size == 0:
            row: Tensor = ops.gemv_4bit(
                x.contiguous(), packed.view(-1, 1), shape, scales, quant_map, block_size
            )
            return row
        weight = ops.dequantize_4bit(
            packed.view(-1, 1), scales, block_size, quant_type, shape, x.dtype
        )
        return F.linear(x, weight)


linear_4bit = torch.library.custom_op(
    "quantload_bitsandbytes::linear_4bit", product_on_cpu, mutates_args=(), schema=_SCHEMA
)
linear_4bit.register_kernel("cuda")(product_on_cuda)


@linear_4bit.register_fake
def _linear_4bit_fake(x: Tensor, *weight: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight[-1][0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  torch passes it by name
    ctx.save_for_backward(*inputs[1:6])
    ctx.rest = inputs[6:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    packed, absmax, quant_map, nested_absmax, nested_quant_map = ctx.saved_tensors
    offset, nested_block_size, _, block_size, shape = ctx.rest
    rows, columns = shape
    scales = _absmax(absmax, nested_absmax, nested_quant_map, offset, nested_block_size)
    flat = dequantize_4bit(packed, scales, quant_map, block_size, rows * columns, grad.dtype)
    return (grad @ flat.view(rows, columns), *(None,) * 10)


linear_4bit.register_autograd(_backward, setup_context=_save)


def multiply_4bit(x: Tensor, *weight: Any) -> Tensor:
    """`x @ W.T`; the arguments are those of `product_on_cpu`."""
    product: Any = linear_4bit
    if not watched(x):
        product = product_on_cuda if x.is_cuda else product_on_cpu
    found: Tensor = product(x, *weight)
    return found
