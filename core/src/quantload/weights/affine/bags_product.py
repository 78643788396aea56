"""The product of `TorchBags`: sums of codes for few rows, decoded blocks for many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from quantload.weights import bags


@cache
def crossings() -> dict[str, int]:
    """Most rows of `x` for which sums of codes are the faster way, by bits and dtype.

    Measured by `benchmarks/cpu_bags_crossing.py`, which writes the file read here.
    """
    text = files("quantload.weights.affine").joinpath("bags_crossing.json").read_text("utf-8")
    return {str(name): int(rows) for name, rows in json.loads(text)["rows"].items()}


def crossing(stored: int, dtype: torch.dtype) -> int:
    """`crossings` for codes of so many bits in the table; 0 where there is no such way."""
    return crossings().get(f"{stored} {str(dtype).removeprefix('torch.')}", 0)


def product(
    x: Tensor,
    table: Tensor,
    factors: Tensor,
    shifts: Tensor | None,
    added: Tensor | None,
    starts: Tensor,
    run_groups: Tensor,
    order: Tensor | None,
    bits: int,
    rows: int,
    size: int,
) -> Tensor:
    """`x @ W.T` in `x.dtype`.

    Args:
        x: `[..., in_features]`.
        table: see `bags.pack`; `middle` is `2 ** (bits - 1)`.
        factors: float `[blocks, groups, width]`, the scales as `bags.spread` lays them.
        shifts: likewise, what is added to a code less the middle before it is scaled; or
            None.
        added: likewise, what is added afterwards, of a weight with offsets; or None.
        starts: int32 `[groups]`, the first column of each group.
        run_groups: int32 `[in_features // run]`, the group of each run of columns.
        order: int32 `[in_features]`, the columns sorted by group; None where they are.
        bits: of a code of the weight; in the table it may have more.
        rows: out_features.
        size: columns of every group; 0 where they are not alike.
    """
    flat = x.reshape(-1, x.shape[-1])
    if order is not None:
        flat = flat.index_select(1, order)
    stored = bags.stored_bits(bits)
    if 0 < flat.shape[0] <= crossing(stored, flat.dtype):
        found = bags.sums(flat, table, stored, starts)
        if shifts is not None or added is not None:
            totals = bags.group_sums(flat, starts, size)[None, :, :, None]
        if shifts is not None:
            found.addcmul_(totals, shifts.float()[:, None])
        elif added is not None:
            found.add_(totals, alpha=1 << (bits - 1))
        found.mul_(factors.float()[:, None])
        if added is not None:
            found.addcmul_(totals, added.float()[:, None])
        out = bags.in_order(found.sum(2), stored, rows).to(x.dtype)
    else:
        out = flat.new_empty((flat.shape[0], rows))
        if flat.dtype == torch.float16:  # which a CPU multiplies faster by way of float32
            flat = flat.float()
        weight = (table, factors, shifts, added, run_groups, bits, rows)
        for some, decoded in decoded_blocks(*weight, flat.dtype):
            out[:, some] = flat @ decoded
    return out.reshape(*x.shape[:-1], rows)


def gradient(
    grad: Tensor,
    table: Tensor,
    factors: Tensor,
    shifts: Tensor | None,
    added: Tensor | None,
    run_groups: Tensor,
    order: Tensor | None,
    bits: int,
) -> Tensor:
    """The gradient to `x` for one to the product: `grad @ W`."""
    flat = grad.reshape(-1, grad.shape[-1])
    columns = table.shape[0] // factors.shape[0]
    total = flat.new_zeros((flat.shape[0], columns), dtype=torch.float32)
    weight = (table, factors, shifts, added, run_groups, bits, flat.shape[1])
    for some, decoded in decoded_blocks(*weight, flat.dtype):
        total += flat[:, some] @ decoded.T
    if order is not None:
        total = torch.empty_like(total).index_copy_(1, order.long(), total)
    return total.to(grad.dtype).view(*grad.shape[:-1], -1)


def decoded_blocks(
    table: Tensor,
    factors: Tensor,
    shifts: Tensor | None,
    added: Tensor | None,
    run_groups: Tensor,
    bits: int,
    rows: int,
    dtype: torch.dtype,
) -> Iterator[tuple[slice, Tensor]]:
    """Runs of rows, and the transpose of their weights `[in_features, n]`, sorted by group."""
    middle, stored = 1 << (bits - 1), bags.stored_bits(bits)
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def scaling(part: slice) -> tuple[Tensor, Tensor]:
        scale = factors[part].to(wide)
        if added is not None:
            offset = added[part].to(wide)
        else:
            offset = scale * (-middle if shifts is None else shifts[part].to(wide) - middle)
        return scale.index_select(1, run_groups), offset.index_select(1, run_groups)

    shape = (rows, table.shape[0] // factors.shape[0])
    return bags.decoded(table, stored, shape, dtype, scaling)


@torch.library.custom_op("quantload::affine_bags_cpu", mutates_args=())
def bags_linear(
    x: Tensor,
    table: Tensor,
    factors: Tensor,
    shifts: Tensor | None,
    added: Tensor | None,
    starts: Tensor,
    run_groups: Tensor,
    order: Tensor | None,
    bits: int,
    rows: int,
    size: int,
) -> Tensor:
    """`product` as an operator, for tracing and for gradients."""
    return product(
        x, table, factors, shifts, added, starts, run_groups, order, bits, rows, size
    ).clone()


@bags_linear.register_fake
def _(
    x: Tensor,
    table: Tensor,  # noqa: ARG001  the signature is the operator's
    factors: Tensor,  # noqa: ARG001  likewise
    shifts: Tensor | None,  # noqa: ARG001  likewise
    added: Tensor | None,  # noqa: ARG001  likewise
    starts: Tensor,  # noqa: ARG001  likewise
    run_groups: Tensor,  # noqa: ARG001  likewise
    order: Tensor | None,  # noqa: ARG001  likewise
    bits: int,  # noqa: ARG001  likewise
    rows: int,
    size: int,  # noqa: ARG001  likewise
) -> Tensor:
    return x.new_empty((*x.shape[:-1], rows))


def _remember(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[Tensor, ...],
    output: Tensor,  # noqa: ARG001  the signature is torch's
) -> None:
    _, table, factors, shifts, added, _, run_groups, order, bits, _, _ = inputs
    ctx.save_for_backward(table, factors, shifts, added, run_groups, order)
    ctx.bits = bits  # type: ignore[attr-defined]  # any name may be set


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved: list[Any] = list(ctx.saved_tensors)  # type: ignore[attr-defined]  # not annotated
    saved.append(ctx.bits)  # type: ignore[attr-defined]  # see above
    return gradient(grad, *saved), *(None,) * 10


bags_linear.register_autograd(_backward, setup_context=_remember)
