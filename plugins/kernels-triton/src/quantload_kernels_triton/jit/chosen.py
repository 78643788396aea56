"""The product of each row of activations with one of many weights, chosen on the device."""

from __future__ import annotations

import triton
import triton.language as tl

from quantload_kernels_triton.jit.few_rows import few_rows


@triton.jit(do_not_specialize=["columns", "tiles", "units", "groups"])
def chosen_rows(
    x,
    chosen,
    words,
    scales,
    zeros,
    y,
    columns,
    out_rows,
    x_stride,
    tiles,
    units,
    groups,
    words_each,
    scales_each,
    zeros_each,
    BITS: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP: tl.constexpr,
    RUN: tl.constexpr,
    LISTED: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    TABLE: tl.constexpr,
    MASKED: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    C: tl.constexpr,
    W: tl.constexpr,
    PTX: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Row `j` of `y` is that of `x` times weight `chosen[j]`: program `(i, j)` as `few_rows`.

    `words_each`, `scales_each` and `zeros_each` are the elements from a weight to the next.
    """
    row = tl.program_id(1).to(tl.int64)
    number = tl.load(chosen + row)
    few_rows(
        x + row * x_stride,
        words + number * words_each,
        scales + number * scales_each,
        zeros + number * zeros_each,
        words,
        y + row * out_rows,
        1,
        columns,
        out_rows,
        x_stride,
        tiles,
        units,
        groups,
        BITS,
        UNIT,
        GROUP,
        RUN,
        LISTED,
        SYMMETRIC,
        TABLE,
        False,
        MASKED,
        R,
        U,
        C,
        1,
        W,
        False,
        PTX,
        FIRST,
    )
