"""Row-wise 8-bit quantization and the product of LLM.int8 (arXiv:2208.07339).

A row is divided by its largest magnitude and rounded to -127..127; that magnitude is the
row's scale (`SCB`). Weights are quantized once. In the product, rows of the input are
quantized on the fly in the same way; what is `threshold` or larger, an outlier, is left
out, and whole columns that hold one are multiplied in floating point instead.

The library casts to float16 before it quantizes, and so does `quantize_rows`, bit for bit
as its CPU path (0.50.2): what float16 cannot hold makes a scale infinite. Its CUDA kernel
takes the reciprocal with `__fdividef` and may differ in the last bit of `127 / absmax`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload_bitsandbytes import library
from quantload_bitsandbytes.workspace import Workspace, carve

CHUNK = 1 << 19
"""Elements quantized at a time on a CPU."""

MIN_ROWS_ON_CUDA = 17
"""Fewer rows `torch._int_mm` refuses there."""

TO_FLOAT = 7.874015718698502e-3
"""1 / 127, as the library writes it."""


def quantize_rows(weight: Tensor, workspace: Workspace | None = None) -> tuple[Tensor, Tensor]:
    """Quantize a float weight by rows.

    Args:
        weight: `[rows, columns]`, float32, bfloat16 or float16; only read.
        workspace: scratch buffers to use again; its own for this call where None.

    Returns:
        int8 `[rows, columns]` and the largest magnitude of each row, float32 `[rows]`.
    """
    weight = weight.detach()
    rows, columns = weight.shape
    codes = torch.empty(rows, columns, dtype=torch.int8, device=weight.device)
    scales = torch.empty(rows, dtype=torch.float32, device=weight.device)
    on_cpu = weight.device.type == "cpu"
    step = min(rows, max(1, CHUNK // max(columns, 1))) if on_cpu else rows
    space = workspace or Workspace()
    count = step * columns

    def work(start: int, stop: int) -> None:
        with space.borrow(10 * count + 256, weight.device) as buffer:
            _quantize(weight[start:stop], buffer, codes[start:stop], scales[start:stop])

    with torch.no_grad():
        if columns:
            space.in_chunks(rows, step, work, each=columns if on_cpu else 0)
        else:
            scales.zero_()
    return codes, scales


def _quantize(x: Tensor, buffer: Tensor, codes: Tensor, scales: Tensor) -> None:
    flat32, flat_other, flat16 = carve(
        buffer, x.numel(), torch.float32, torch.float32, torch.float16
    )
    half, number, magnitude = (part.view(x.shape) for part in (flat16, flat32, flat_other))
    half.copy_(x)
    number.copy_(half)
    torch.abs(number, out=magnitude)
    torch.amax(magnitude, 1, out=scales)
    codes.copy_(number.mul_(_reciprocal(scales).unsqueeze(1)).round_())


def _reciprocal(scales: Tensor) -> Tensor:
    """127 / scale; 0 for a row of zeros, whose codes are zeros."""
    return torch.where(scales > 0, 127.0 / scales, 0.0)


def dequantize_rows(codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """`codes * scales / 127` with one rounding to `dtype` at the end.

    Args:
        codes: int8 `[rows, columns]`.
        scales: float32 `[rows]`.
        dtype: of the result.
    """
    return (codes * scales.unsqueeze(1)).mul_(TO_FLOAT).to(dtype)


def quantize_input(x: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """Quantize rows of an input, outliers left out.

    Args:
        x: float `[rows, columns]`.
        threshold: magnitudes from here on are outliers; 0 for none.

    Returns:
        int8 codes with zeros in the outlier columns, float32 `[rows]` scales, and the
        numbers of the outlier columns (None where there are none).
    """
    number = x.float()
    magnitude = number.abs()
    columns = None
    if threshold > 0:
        outlier = magnitude >= threshold
        columns = outlier.any(0).nonzero().view(-1)
        if columns.numel():
            magnitude = magnitude.masked_fill_(outlier, 0.0)
            number = number.index_fill(1, columns, 0.0)
        else:
            columns = None
    scales = magnitude.amax(1)
    codes = (number * _reciprocal(scales).unsqueeze(1)).round_().to(torch.int8)
    return codes, scales, columns


def integer_product(x: Tensor, codes: Tensor) -> Tensor:
    """`x @ codes.T` of int8 matrices, in int32 (in float32 where a GPU has no such product)."""
    if x.device.type == "cpu":
        return torch._int_mm(x, codes.t())
    by_library = library.integer_product(x, codes)
    if by_library is not None:
        return by_library
    (rows, columns), outputs = x.shape, codes.shape[0]
    if columns % 8 or outputs % 8:
        return F.linear(x.float(), codes.float())
    padded = F.pad(x, (0, 0, 0, max(MIN_ROWS_ON_CUDA - rows, 0)))
    return torch._int_mm(padded, codes.t())[:rows]


def int8_linear(x: Tensor, codes: Tensor, scales: Tensor, threshold: float) -> Tensor:
    """`x @ W.T` by LLM.int8, in `x.dtype`.

    Args:
        x: float `[rows, in_features]`.
        codes: int8 `[out_features, in_features]`.
        scales: float32 `[out_features]`.
        threshold: see `quantize_input`.
    """
    x_codes, x_scales, columns = quantize_input(x, threshold)
    product = integer_product(x_codes, codes)
    result = product * (x_scales.unsqueeze(1) * (scales * (TO_FLOAT * TO_FLOAT)))
    if columns is not None:
        part = dequantize_rows(codes.index_select(1, columns), scales, x.dtype)
        result += F.linear(x.index_select(1, columns), part)
    return result.to(x.dtype)
