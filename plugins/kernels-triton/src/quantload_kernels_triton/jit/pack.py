"""Activations in the order in which the lanes of a warp hold the right operand."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def start_next():
    """Let the next kernel of the stream begin, as far as it needs nothing of this one."""
    tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait_for_last():
    """Wait until the kernel before is done and what it wrote can be read."""
    tl.extra.cuda.gdc_wait()


@triton.jit(do_not_specialize=["rows", "columns"])
def pack_rows(
    x,
    order,
    packed,
    rows,
    columns,
    x_stride,
    per_eight,
    GATHER: tl.constexpr,
    OVERLAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`packed[eight, column // 16, 8 g, 4 t, 2 k8, 2 p]` of x `[rows, columns]`.

    Lane `4 g + t` holds row `8 * eight + g` and columns `2t`, `2t + 1`, `2t + 8`, `2t + 9`
    of sixteen (PTX ISA, "Matrix Fragments for mma.m16n8k16"). Zero where x has no such row
    or column. With `GATHER`, column `i` is the one that `order` names.

    Program `(i, eight)` writes `BLOCK` elements; `per_eight` elements belong to an eight.
    """
    if OVERLAP:
        start_next()
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = place // 128 * 16 + place // 2 % 2 * 8 + place // 4 % 4 * 2 + place % 2
    row = tl.program_id(1) * 8 + place // 16 % 8
    inside = (row < rows) & (column < columns)
    if GATHER:
        column = tl.load(order + column, mask=column < columns, other=0)
    values = tl.load(x + row.to(tl.int64) * x_stride + column, mask=inside, other=0.0)
    tl.store(packed + tl.program_id(1) * per_eight + place, values, mask=place < per_eight)
