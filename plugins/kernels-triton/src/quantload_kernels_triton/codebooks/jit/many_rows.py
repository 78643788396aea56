"""The product for many rows of activations, and the weight in float.

Weights are made in registers, in the layout of the left operand, and never stored. The
warps of a program stand one below the other. Activations pass through shared memory, in
the order of columns that the entries ask for; `reordered` brings them into it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantload_kernels_triton.codebooks.jit.entries import load_entries, load_indices
from quantload_kernels_triton.jit.many_rows import finished
from quantload_kernels_triton.jit.pack import start_next, wait_for_last


@triton.jit(do_not_specialize=["columns"])
def reordered(
    x,
    out,
    columns,
    x_stride,
    padded,
    G: tl.constexpr,
    OVERLAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`out[row, block, G j, 2 s, 2 h, 4 t, 2 p]` of x `[rows, columns]`.

    That is column `8 G t + 8 j + 4 s + 2 h + p` of a block of `32 G`; zero where x has no
    such column. Program `(i, row)` writes `BLOCK` of the `padded` elements of a row.
    """
    if OVERLAP:
        start_next()
    row = tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inner = place % (32 * G)
    column = place - inner + inner // 2 % 4 * (8 * G) + inner // 32 * 8
    column = column + inner // 16 % 2 * 4 + inner // 8 % 2 * 2 + inner % 2
    values = tl.load(x + row.to(tl.int64) * x_stride + column, mask=column < columns, other=0.0)
    tl.store(out + row.to(tl.int64) * padded + place, values, mask=place < padded)


@triton.jit
def indices_of(
    codes,
    row,
    rows,
    block,
    per_row,
    KV: tl.constexpr,
    KL: tl.constexpr,
    ENTRIES: tl.constexpr,
    PAIRS: tl.constexpr,
    G: tl.constexpr,
    FIRST: tl.constexpr,
):
    """For each of `KL` codebooks, or for `KV` at once, `load_indices` of a block of columns."""
    place = (block * 4 + tl.arange(0, row.shape[0]) % 4) * (G * KV * KL)
    found = ()
    for k in tl.static_range(KL):
        found = found + (
            load_indices(
                codes,
                row,
                rows,
                place + k * KV,
                per_row,
                KL,
                2,
                G * KV,
                KV,
                ENTRIES,
                PAIRS,
                True,
                FIRST,
            ),
        )
    return found


@triton.jit
def weights_of(
    books,
    index,
    KV: tl.constexpr,
    KL: tl.constexpr,
    ENTRIES: tl.constexpr,
    G: tl.constexpr,
    T: tl.constexpr,
    DT: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Sums of the entries that `indices_of` names, not scaled, `[T, 2 rows 8 apart, G, 8]`."""
    for k in tl.static_range(KL):
        values = load_entries(books + k * (KV * ENTRIES * 8), index[k], FIRST)
        if KV > 1:
            if books.dtype.element_ty != tl.float16:
                values = values.to(tl.float32)
            values = tl.sum(tl.reshape(values, (T, 2, G, KV, 8)), axis=3)
        values = values.to(DT)
        if k == 0:
            total = values
        else:
            total += values
    return total


@triton.jit(do_not_specialize=["rows", "blocks_each"])
def many_rows(
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
    blocks_each,
    KV: tl.constexpr,
    KL: tl.constexpr,
    ENTRIES: tl.constexpr,
    PAIRS: tl.constexpr,
    G: tl.constexpr,
    ROWS: tl.constexpr,
    W: tl.constexpr,
    AHEAD: tl.constexpr,
    OVERLAP: tl.constexpr,
    FINISHED: tl.constexpr,
    FIRST: tl.constexpr,
):
    """`y = x W^T`, or parts of it: program `(i, j, s)` makes `ROWS` rows from `i * ROWS` on.

    Their columns are those of `W` tiles from `j * W` on; `s` is a run of `blocks_each` times
    `32 G` columns, and `y` is `[runs, rows, out_rows]`. `x` is what `reordered` wrote, with
    `x_stride` a multiple of `32 G`.
    """
    DT: tl.constexpr = x.dtype.element_ty
    T: tl.constexpr = 32 * W
    D: tl.constexpr = 32 * G
    thread = tl.arange(0, T)
    first = tl.program_id(1) * (W * 16)
    row = first + thread // 32 * 16 + thread // 4 % 8
    start = tl.program_id(2) * blocks_each
    stop = tl.minimum(start + blocks_each, (columns + D - 1) // D)
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place = x + (token.to(tl.int64) * x_stride)[:, None] + tl.arange(0, D)[None, :]
    inside = (token < rows)[:, None]
    sums = tl.zeros((W * 16, ROWS), tl.float32)
    if OVERLAP:
        wait_for_last()
    # With `AHEAD`, entries of the next block and codes of the one after it are on their way
    # while a block is multiplied. (Triton's own pipeline brings entries through shared memory,
    # which is slower than none.)
    index = indices_of(codes, row, out_rows, start, per_row, KV, KL, ENTRIES, PAIRS, G, FIRST)
    weights = weights_of(books, index, KV, KL, ENTRIES, G, T, DT, FIRST)
    index = indices_of(codes, row, out_rows, start + 1, per_row, KV, KL, ENTRIES, PAIRS, G, FIRST)
    right = tl.load(place + start * D, mask=inside, other=0.0)
    for block in tl.range(start, stop, num_stages=1):
        left = tl.reshape(weights, (W, 8, 4, 2, G, 2, 2, 2))
        left = tl.permute(left, (0, 3, 1, 4, 5, 6, 2, 7))  # W r8 g j s h t p
        left = tl.reshape(left, (W * 16, D))
        after = tl.minimum(block + 1, stop - 1)
        if AHEAD:
            here = right
            weights = weights_of(books, index, KV, KL, ENTRIES, G, T, DT, FIRST)
            index = indices_of(
                codes, row, out_rows, block + 2, per_row, KV, KL, ENTRIES, PAIRS, G, FIRST
            )
            right = tl.load(place + after * D, mask=inside, other=0.0)
            sums = tl.dot(left, tl.trans(here), sums)
        else:
            sums = tl.dot(left, tl.trans(right), sums)
            weights = weights_of(books, index, KV, KL, ENTRIES, G, T, DT, FIRST)
            index = indices_of(
                codes, row, out_rows, block + 2, per_row, KV, KL, ENTRIES, PAIRS, G, FIRST
            )
            right = tl.load(place + after * D, mask=inside, other=0.0)
        if FINISHED:
            sums = finished(sums)
    row = first + tl.arange(0, W * 16)
    scale = tl.load(scales + row, mask=row < out_rows, other=0.0).to(tl.float32)
    sums = sums * scale[:, None]
    out = (tl.program_id(2) * rows + token).to(tl.int64)
    where = y + out[:, None] * out_rows + row[None, :]
    mask = (token < rows)[:, None] & (row < out_rows)[None, :]
    tl.store(where, tl.trans(sums).to(y.dtype.element_ty), mask=mask)


@triton.jit
def decoded(
    codes,
    books,
    scales,
    out,
    columns,
    out_rows,
    COUNT: tl.constexpr,
    ENTRIES: tl.constexpr,
    BITS: tl.constexpr,
    RB: tl.constexpr,
    GB: tl.constexpr,
):
    """Writes `W` `[out_rows, columns]`: program `(i, j)` makes `8 GB` columns of `RB` rows.

    `codes` are words of all `COUNT` codes of eight columns, `BITS` bits each; where `BITS`
    is 0, they are single codes.
    """
    row = tl.program_id(1) * RB + tl.arange(0, RB)
    group = tl.program_id(0) * GB + tl.arange(0, GB)
    inside = (row < out_rows)[:, None] & (group < columns // 8)[None, :]
    here = row.to(tl.int64)[:, None] * (columns // 8) + group[None, :]
    eight = tl.arange(0, 8)[None, None, :]
    total = tl.zeros((RB, GB, 8), tl.float32)
    if BITS:
        word = tl.load(codes + here, mask=inside, other=0)
    for k in tl.static_range(COUNT):
        if BITS:
            code = word >> (k * BITS)
        else:
            code = tl.load(codes + here * COUNT + k, mask=inside, other=0)
        index = (code.to(tl.int32) & (ENTRIES - 1)) + k * ENTRIES
        total += tl.load(books + index[:, :, None] * 8 + eight).to(tl.float32)
    scale = tl.load(scales + row, mask=row < out_rows, other=0.0).to(tl.float32)
    total = total * scale[:, None, None]
    where = out + here[:, :, None] * 8 + eight
    tl.store(where, total.to(out.dtype.element_ty), mask=inside[:, :, None])
