"""Tiles of a product that several programs made parts of."""

from __future__ import annotations

import triton
import triton.language as tl

from quantload_kernels_triton.jit.pack import start_next, wait_for_last


@triton.jit(do_not_specialize=["rows", "whole", "across"])
def add_tiles(
    parts,
    y,
    rows,
    out_rows,
    whole,
    across,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    TALL: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Tiles of y from number `whole` on, as sums of `COUNT` parts `[tiles, COUNT, ROWS, TALL]`.

    `across` tiles of `ROWS` rows lie beside each other. Program `(i, j)` adds elements `BLOCK *
    j` on of tile `whole + i`, part by part. With `OVERLAP`, what makes them may still run.
    """
    if OVERLAP:
        start_next()
        wait_for_last()
    tile = tl.program_id(0)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(COUNT):
        start = (tile * COUNT + part).to(tl.int64) * (ROWS * TALL)
        total += tl.load(parts + start + place)
    token = (whole + tile) % across * ROWS + place // TALL
    row = (whole + tile) // across * TALL + place % TALL
    where = y + token.to(tl.int64) * out_rows + row
    tl.store(where, total.to(y.dtype.element_ty), mask=(token < rows) & (row < out_rows))
