"""The product for few rows of activations: every code read once, its entry looked up."""

from __future__ import annotations

import triton
import triton.language as tl

from quantload_kernels_triton.codebooks.jit.entries import load_entries, load_indices
from quantload_kernels_triton.jit.loads import along


@triton.jit
def load_eights(
    x,
    row_stride,
    column,
    rows,
    columns,
    G: tl.constexpr,
    N8: tl.constexpr,
    T: tl.constexpr,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Activations of `G` times eight columns from `column` `[T]` on, `[T, N8, G, 8]`."""
    token = tl.arange(0, T) // 4 % 8
    at: tl.constexpr = 0 if FIRST else 2
    eights: tl.constexpr = 1 if FIRST else 0
    groups: tl.constexpr = 2 if FIRST else 1
    inner = along(tl.arange(0, G) * 8, groups, 4) + along(tl.arange(0, 8), 3, 4)
    mask = along(token, at, 4) + along(tl.arange(0, N8) * 8, eights, 4) < rows
    if MASKED:
        mask = mask & (along(column, at, 4) + along(tl.arange(0, G) * 8, groups, 4) < columns)
    where = along(x + token * row_stride + column, at, 4) + inner
    where = where + along(tl.arange(0, N8) * (8 * row_stride), eights, 4)
    values = tl.load(where, mask=mask, other=0.0)
    if not FIRST:
        values = tl.permute(values, (2, 0, 1, 3))
    return values


@triton.jit
def _indices(
    codes,
    row,
    rows,
    column,
    k,
    per_row,
    KV: tl.constexpr,
    KL: tl.constexpr,
    ENTRIES: tl.constexpr,
    PAIRS: tl.constexpr,
    G: tl.constexpr,
    MASKED: tl.constexpr,
    R: tl.constexpr,
    FIRST: tl.constexpr,
):
    """`load_indices` of `G` times eight columns from `column` on; `k` as in `few_rows`."""
    place = column // 8 * (KV * KL) + k * KV
    return load_indices(
        codes, row, rows, place, per_row, KL, 2 * R, G * KV, KV, ENTRIES, PAIRS, MASKED, FIRST
    )


@triton.jit(do_not_specialize=["rows"])
def few_rows(
    x,
    codes,
    books,
    scales,
    y,
    rows,
    columns,
    out_rows,
    x_stride,
    per_row,
    KV: tl.constexpr,
    KL: tl.constexpr,
    ENTRIES: tl.constexpr,
    PAIRS: tl.constexpr,
    G: tl.constexpr,
    MASKED: tl.constexpr,
    R: tl.constexpr,
    N8: tl.constexpr,
    W: tl.constexpr,
    AHEAD: tl.constexpr,
    FIRST: tl.constexpr,
):
    """`y = x W^T` for up to `8 * N8` rows; program `i` makes the rows of `R` tiles from `i * R` on.

    The warps of a program take turns with the columns; a lane takes `G` times eight at
    once. With `AHEAD`, the next codes are on their way while entries are multiplied. See
    `operators.codebooks_linear` for the tensors.
    """
    DT: tl.constexpr = x.dtype.element_ty
    T: tl.constexpr = 32 * W
    SPAN: tl.constexpr = 32 * G
    thread = tl.arange(0, T)
    row = tl.program_id(0) * (R * 16) + thread // 4 % 8
    sums = tl.zeros((W, R * 16, N8 * 8), tl.float32)
    column = thread // 32 * SPAN + thread % 4 * (8 * G)
    if AHEAD:
        index = _indices(
            codes, row, out_rows, column, 0, per_row, KV, KL, ENTRIES, PAIRS, G, MASKED, R, FIRST
        )
    for start in range(0, columns, W * SPAN):
        here = column + start
        right = load_eights(x, x_stride, here, rows, columns, G, N8, T, MASKED, FIRST)
        right = tl.reshape(right, (W, 8, 4, N8, G, 1, 2, 2, 2))
        right = tl.broadcast_to(right, (W, 8, 4, N8, G, KV, 2, 2, 2))
        right = tl.permute(right, (0, 4, 5, 6, 7, 2, 8, 3, 1))  # W G k s h t p N8 g
        right = tl.reshape(right, (W, G * KV * 32, N8 * 8))
        for k in tl.static_range(KL):
            if not AHEAD:
                index = _indices(
                    codes,
                    row,
                    out_rows,
                    here,
                    k,
                    per_row,
                    KV,
                    KL,
                    ENTRIES,
                    PAIRS,
                    G,
                    MASKED,
                    R,
                    FIRST,
                )
            left = load_entries(books + k * (KV * ENTRIES * 8), index, FIRST)
            if AHEAD:
                after = here if k + 1 < KL else here + W * SPAN
                index = _indices(
                    codes,
                    row,
                    out_rows,
                    after,
                    (k + 1) % KL,
                    per_row,
                    KV,
                    KL,
                    ENTRIES,
                    PAIRS,
                    G,
                    MASKED or k + 1 == KL,
                    R,
                    FIRST,
                )
            left = tl.reshape(left.to(DT), (W, 8, 4, R, 2, G * KV, 2, 2, 2))
            left = tl.permute(left, (0, 3, 4, 1, 5, 6, 7, 2, 8))  # W R r8 g j s h t p
            left = tl.reshape(left, (W, R * 16, G * KV * 32))
            sums = tl.dot(left, right, sums)
    total = tl.sum(sums, axis=0)
    row = tl.program_id(0) * (R * 16) + tl.arange(0, R * 16)
    token = tl.arange(0, N8 * 8)
    scale = tl.load(scales + row, mask=row < out_rows, other=0.0).to(tl.float32)
    total = total * scale[:, None]
    mask = (token < rows)[:, None] & (row < out_rows)[None, :]
    where = y + token.to(tl.int64)[:, None] * out_rows + row[None, :]
    tl.store(where, tl.trans(total).to(DT), mask=mask)
