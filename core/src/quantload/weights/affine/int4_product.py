"""The product of the CPU kernel: packed for few rows, decoded block by block for many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor

from quantload.weights.affine.int4_order import block_rows

_ELEMENTS = 3 << 19
"""Decoded at once: what fits the caches, and is worth waking the threads for."""


@cache
def crossing() -> int:
    """Most rows of `x` for which the packed product is the faster one.

    Measured by `benchmarks/cpu_int4_crossing.py`, which writes the file read here.
    """
    text = files("quantload.weights.affine").joinpath("int4_crossing.json").read_text("utf-8")
    return int(json.loads(text)["rows"])


def product(
    x: Tensor,
    int4: Tensor,
    pairs: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    offsets: Tensor | None,
    run_groups: Tensor,
    order: Tensor | None,
) -> Tensor:
    """`x @ W.T` in `x.dtype`.

    Args:
        x: `[..., in_features]`.
        int4: uint8 `[out_features, in_features // 2]`, see `int4_order`.
        pairs: bfloat16 `[in_features // run, out_features, 2]`: the scale, and the value
            of code 8, of each run of columns.
        scales: `[out_features, groups]`, as in canonical storage.
        zeros: likewise, or None.
        offsets: likewise, or None.
        run_groups: int32 `[in_features // run]`, the group of each run of columns.
        order: int32 `[in_features]`, the columns sorted by group; None where they are.
    """
    flat = x.reshape(-1, x.shape[-1])
    if order is not None:
        flat = flat.index_select(1, order)
    out: Tensor
    if flat.dtype == torch.bfloat16 and flat.shape[0] <= crossing():
        out = torch._weight_int4pack_mm_for_cpu(
            flat.contiguous(), int4, flat.shape[1] // pairs.shape[0], pairs
        )
    else:
        out = flat.new_empty((flat.shape[0], pairs.shape[1]))
        if flat.dtype == torch.float16:  # which a CPU multiplies faster by way of float32
            flat = flat.float()
        for rows, decoded in decoded_blocks(int4, scales, zeros, offsets, run_groups, flat.dtype):
            out[:, rows] = flat @ decoded
    return out.view(*x.shape[:-1], pairs.shape[1])


def gradient(
    grad: Tensor,
    int4: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    offsets: Tensor | None,
    run_groups: Tensor,
    order: Tensor | None,
) -> Tensor:
    """The gradient to `x` for one to the product: `grad @ W`."""
    flat = grad.reshape(-1, grad.shape[-1])
    total = flat.new_zeros((flat.shape[0], 2 * int4.shape[1]), dtype=torch.float32)
    for rows, decoded in decoded_blocks(int4, scales, zeros, offsets, run_groups, flat.dtype):
        total += flat[:, rows] @ decoded.T
    if order is not None:
        total = torch.empty_like(total).index_copy_(1, order.long(), total)
    return total.to(grad.dtype).view(*grad.shape[:-1], -1)


def decoded_blocks(
    int4: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    offsets: Tensor | None,
    run_groups: Tensor,
    dtype: torch.dtype,
) -> Iterator[tuple[slice, Tensor]]:
    """Runs of rows, and the transpose of their weights `[in_features, n]`, sorted by group.

    `code * scale + offset` is as exact in float32 as `(code - zero) * scale` where scales
    have 16 bits, and one pass over the numbers less. A tensor is overwritten by the next.
    """
    columns, half = 2 * int4.shape[1], block_rows() // 2
    packed = int4.view(-1, columns, half)
    height, wide = 2 * half, torch.float64 if dtype == torch.float64 else torch.float32
    step = min(len(packed), max(1, _ELEMENTS // (columns * height)))
    space = int4.new_empty(step * columns * height, dtype=wide)
    halfway = int4.new_empty(0 if dtype == wide else len(space), dtype=dtype)
    target = int4.new_empty((columns, step * height), dtype=dtype)
    for start in range(0, len(packed), step):
        part = packed[start : start + step]
        rows = slice(start * height, (start + len(part)) * height)
        numbers = space[: part.numel() * 2].view(len(part), columns, height)
        numbers[..., :half] = part & 15
        numbers[..., half:] = part >> 4
        scale = scales[rows].to(wide)
        if offsets is not None:
            offset = offsets[rows].to(wide)
        else:
            offset = scale * (-8 if zeros is None else -zeros[rows].to(wide))
        runs = numbers.view(len(part), len(run_groups), -1, height)
        scale, offset = (_per_run(each, run_groups, height) for each in (scale, offset))
        torch.addcmul(offset, runs, scale, out=runs)
        decoded = target[:, : len(part) * height]
        # Rounding and moving in one go would take torch many times as long.
        rounded = numbers
        if dtype != wide:
            rounded = halfway[: numbers.numel()].view(numbers.shape).copy_(numbers)
        decoded.view(columns, len(part), height).copy_(rounded.transpose(0, 1))
        yield rows, decoded


def _per_run(values: Tensor, run_groups: Tensor, height: int) -> Tensor:
    """`[n, groups]` as `[n // height, runs, 1, height]`."""
    runs = values.index_select(1, run_groups).view(-1, height, len(run_groups))
    return runs.transpose(1, 2).contiguous()[:, :, None]


@torch.library.custom_op("quantload::affine_int4_cpu", mutates_args=())
def int4_linear(
    x: Tensor,
    int4: Tensor,
    pairs: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    offsets: Tensor | None,
    run_groups: Tensor,
    order: Tensor | None,
) -> Tensor:
    """`product` as an operator, for tracing and for gradients."""
    return product(x, int4, pairs, scales, zeros, offsets, run_groups, order)


@int4_linear.register_fake
def _(
    x: Tensor,
    int4: Tensor,  # noqa: ARG001  the signature is the operator's
    pairs: Tensor,
    *rest: Tensor | None,  # noqa: ARG001  likewise
) -> Tensor:
    return x.new_empty((*x.shape[:-1], pairs.shape[1]))


def _remember(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[Tensor, ...],
    output: Tensor,  # noqa: ARG001  the signature is torch's
) -> None:
    _, int4, _, *rest = inputs
    ctx.save_for_backward(int4, *rest)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # type: ignore[attr-defined]  # torch does not annotate it
    return gradient(grad, *saved), *(None,) * 7


int4_linear.register_autograd(_backward, setup_context=_remember)
