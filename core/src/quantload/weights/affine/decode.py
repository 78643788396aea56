"""From codes to numbers, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.weights.affine.planes import unpack_planes

if TYPE_CHECKING:
    from quantload.weights.affine.weight import AffineWeight

_ELEMENTS = {"cpu": 1 << 20}
_ELEMENTS_ELSEWHERE = 1 << 26
"""Elements decoded at once: what fits the caches of a CPU; elsewhere, what launches well."""


def row_blocks(weight: AffineWeight) -> Iterator[slice]:
    """Runs of rows that are decoded together; all rows at once while tracing."""
    rows, columns = weight.shape
    limit = _ELEMENTS.get(weight.device.type, _ELEMENTS_ELSEWHERE)
    step = rows if torch.compiler.is_compiling() else max(1, limit // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def decode_rows(weight: AffineWeight, rows: slice | Tensor, dtype: torch.dtype) -> Tensor:
    """Some rows as numbers, `[n, in_features]`; each is rounded once, to `dtype`.

    `scale * (code - zero)` of a float16 or bfloat16 scale is exact in float32.
    """
    return numbers(
        weight, unpack_planes(weight.codes[rows], weight.bits, weight.shape[1]), rows, dtype
    )


def numbers(
    weight: AffineWeight, plain: Tensor, rows: slice | Tensor, dtype: torch.dtype
) -> Tensor:
    """`decode_rows` of rows whose codes are at hand, uint8 `[n, in_features]`."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    codes = plain.to(wide)
    scales = weight.scales[rows].to(wide)
    zeros = weight.zero_points(rows).to(wide) if weight.offsets is None else None
    offsets = None if weight.offsets is None else weight.offsets[rows].to(wide)
    index = weight.column_groups()
    if index is None:
        shape = codes.shape
        codes = codes.view(shape[0], scales.shape[1], weight.group_size)
        _affine(codes, scales[..., None], _last(zeros), _last(offsets))
        return codes.view(shape).to(dtype)
    _affine(codes, scales[:, index], _at(zeros, index), _at(offsets, index))
    return codes.to(dtype)


def _affine(codes: Tensor, scales: Tensor, zeros: Tensor | None, offsets: Tensor | None) -> None:
    if zeros is not None:
        codes -= zeros
    codes *= scales
    if offsets is not None:
        codes += offsets


def _last(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor[..., None]


def _at(tensor: Tensor | None, index: Tensor) -> Tensor | None:
    return None if tensor is None else tensor[:, index]


def decode(weight: AffineWeight, dtype: torch.dtype) -> Tensor:
    """The whole weight, `[out_features, in_features]`."""
    blocks = list(row_blocks(weight))
    if len(blocks) == 1:
        return decode_rows(weight, blocks[0], dtype)
    out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    for rows in blocks:
        out[rows] = decode_rows(weight, rows, dtype)
    return out


def linear(weight: AffineWeight, x: Tensor) -> Tensor:
    """`x @ W.T` without ever holding all of `W`: decoded blocks are used while in the cache."""
    if torch.is_grad_enabled() and x.requires_grad:
        product: Tensor = _Linear.apply(x, weight)  # type: ignore[no-untyped-call]
        return product
    return _forward(weight, x)


def _widened(x: Tensor) -> Tensor:
    """Float32 for float16, which a CPU multiplies no faster, and in which a weight may be infinite.

    A scale of float16 times a code can be beyond it, or below its normal numbers.
    """
    return x.float() if x.dtype == torch.float16 else x


def _forward(weight: AffineWeight, x: Tensor) -> Tensor:
    flat = x.reshape(-1, x.shape[-1])
    out = flat.new_empty((flat.shape[0], weight.shape[0]))
    flat = _widened(flat)
    for rows in row_blocks(weight):
        out[:, rows] = F.linear(flat, decode_rows(weight, rows, flat.dtype))
    return out.view(*x.shape[:-1], weight.shape[0])


class _Linear(torch.autograd.Function):
    """Decodes once more in the backward pass, so that no float weight is kept alive."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: AffineWeight
    ) -> Tensor:
        ctx.weight = weight  # type: ignore[attr-defined]
        return _forward(weight, x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        weight: AffineWeight = ctx.weight  # type: ignore[attr-defined]
        (grad,) = grads
        flat = _widened(grad.reshape(-1, grad.shape[-1]))
        total = flat.new_zeros((flat.shape[0], weight.shape[1]), dtype=torch.float32)
        for rows in row_blocks(weight):
            total += flat[:, rows] @ decode_rows(weight, rows, flat.dtype)
        return total.to(grad.dtype).view(*grad.shape[:-1], -1), None
