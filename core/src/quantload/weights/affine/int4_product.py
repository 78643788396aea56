"""The product of the CPU kernel: packed for few rows, decoded block by block for many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.weights.affine.int4_order import rows_of

_ELEMENTS = 1 << 19
"""Decoded at once: what fits the caches."""

_FLOAT16_ROWS = 16
"""From here on a CPU multiplies float16 faster by way of float32, and no less exactly."""


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
        int4: uint8 `[blocks, in_features, block // 2]`, see `int4_order`.
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
        run = flat.shape[1] // len(run_groups)
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(
            flat.contiguous(), int4.view(pairs.shape[1], -1), run, pairs
        )
    else:
        out = flat.new_empty((flat.shape[0], pairs.shape[1]))
        if flat.dtype == torch.float16 and flat.shape[0] >= _FLOAT16_ROWS:
            flat = flat.float()
        for rows, decoded in decoded_blocks(int4, scales, zeros, offsets, run_groups, flat.dtype):
            out[:, rows] = F.linear(flat, decoded)
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
    total = flat.new_zeros((flat.shape[0], int4.shape[1]), dtype=torch.float32)
    for rows, decoded in decoded_blocks(int4, scales, zeros, offsets, run_groups, flat.dtype):
        total += flat[:, rows] @ decoded
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
    """Runs of rows, and their weights `[n, in_features]`, columns sorted by group."""
    blocks, columns, half = int4.shape
    height = 2 * half
    step = max(1, _ELEMENTS // (columns * height))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for start in range(0, blocks, step):
        codes = rows_of(int4[start : start + step])
        rows = slice(start * height, start * height + codes.shape[0])
        grid = codes.to(wide).view(codes.shape[0], len(run_groups), -1)
        if offsets is None:
            grid -= 8.0 if zeros is None else _per_run(zeros[rows], run_groups, wide)
        grid *= _per_run(scales[rows], run_groups, wide)
        if offsets is not None:
            grid += _per_run(offsets[rows], run_groups, wide)
        yield rows, grid.view(codes.shape).to(dtype)


def _per_run(values: Tensor, run_groups: Tensor, dtype: torch.dtype) -> Tensor:
    return values.index_select(1, run_groups).to(dtype)[..., None]


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
