"""One of many weights for each row of activations: the experts of a model, a few tokens at a time.

The operator `quantload_triton::chosen_linear`; what is stored of the weights lies one after
the other in one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantload.kernels.watched import watched
from quantload_kernels_triton.availability import interpreting

if TYPE_CHECKING:
    from quantload_kernels_triton.launch import Arranged

_LIBRARY = torch.library.Library("quantload_triton", "FRAGMENT")
_LIBRARY.define(
    "chosen_linear(Tensor x, Tensor chosen, Tensor words, Tensor scales, Tensor? zeros, "
    "int bits, int group_size, int run, int out_features, str table) -> Tensor"
)


def chosen_linear(
    x: Tensor,
    chosen: Tensor,
    words: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    group_size: int,
    run: int,
    out_features: int,
    table: str,
) -> Tensor:
    """Row `i` of `x` times weight `chosen[i]`, in `x.dtype`.

    Args:
        x: `[rows, in_features]`, float16 or bfloat16.
        chosen: int64 `[rows]`.
        words: `[weights, ...]`; each, and the arguments that follow, as in
            `operators.affine_linear`.
        scales: likewise.
        zeros: likewise.
        bits: of all weights, as are the other numbers.
        group_size: columns of a group.
        run: columns that share a group.
        out_features: rows of a weight.
        table: what codes index.

    Returns:
        `[rows, out_features]`.
    """
    from quantload_kernels_triton.launch import Arranged

    first = None if zeros is None else zeros[0]
    one = Arranged(
        words[0], scales[0], first, None, bits, group_size, run, out_features, x.shape[1], table
    )
    return _launched(x, chosen, words, scales, zeros, one)


def _launched(
    x: Tensor, chosen: Tensor, words: Tensor, scales: Tensor, zeros: Tensor | None, one: Arranged
) -> Tensor:
    from quantload_kernels_triton.jit.chosen import chosen_rows
    from quantload_kernels_triton.launch import missing, plan_of
    from quantload_kernels_triton.launching import on_device_of

    geometry, plan = one.geometry, plan_of(1, one, x.dtype)
    x = x if x.stride(1) == 1 else x.contiguous()
    y = x.new_empty((x.shape[0], geometry.rows))
    with on_device_of(x):
        chosen_rows[(geometry.tiles // plan.tiles, x.shape[0])](
            x,
            chosen,
            words,
            scales,
            words if zeros is None else zeros,
            y,
            geometry.columns,
            geometry.rows,
            x.stride(0),
            geometry.tiles,
            geometry.units,
            one.scales.shape[0],
            words.stride(0),
            scales.stride(0),
            0 if zeros is None else zeros.stride(0),
            **one.settings(),
            MASKED=missing(geometry, plan.warps * plan.units * plan.ahead),
            R=plan.tiles,
            U=plan.units,
            C=plan.ahead,
            W=plan.warps,
            num_warps=plan.warps,
            num_stages=1,
        )
    return y


def multiply_chosen(
    stacks: Mapping[str, Tensor],
    x: Tensor,
    chosen: Tensor,
    sizes: tuple[int, int, int, int],
    table: str = "",
) -> Tensor:
    """`chosen_linear`, as an op where something looks on.

    Args:
        stacks: "words", "scales" and perhaps "zeros" of the weights.
        x: `[rows, in_features]`.
        chosen: int64 `[rows]`.
        sizes: `bits`, `group_size`, `run` and `out_features`.
        table: what codes index.
    """
    stored = (stacks["words"], stacks["scales"], stacks.get("zeros"))
    if watched(x):
        product: Tensor = torch.ops.quantload_triton.chosen_linear(
            x, chosen, *stored, *sizes, table
        )
        return product
    return chosen_linear(x, chosen, *stored, *sizes, table)


@torch.library.register_fake("quantload_triton::chosen_linear", lib=_LIBRARY)
def _fake(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty((x.shape[0], others[7]))


for _key in ("CUDA", "CPU") if interpreting() else ("CUDA",):
    _LIBRARY.impl("chosen_linear", chosen_linear, _key)
