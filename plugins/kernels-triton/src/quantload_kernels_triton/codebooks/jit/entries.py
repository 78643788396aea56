"""Codes and the entries they stand for, where the left operand of a product wants them.

A lane of a warp that holds m16n8k16's left operand has four columns of sixteen, so the
eight columns of an entry are its part of two products, if columns are taken in an order
that suits: of 32 columns, lane `4 g + t` takes the eight from `8 t` on. A lane thus reads
entries whole, 16 bytes at once, and activations likewise. Codes of consecutive entries
belong to the same lane, which reads them at once as well.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantload_kernels_triton.jit.loads import along


@triton.jit
def load_indices(
    codes,
    row,
    rows,
    place,
    per_row,
    step,
    RR: tl.constexpr,
    J: tl.constexpr,
    KV: tl.constexpr,
    ENTRIES: tl.constexpr,
    PAIRS: tl.constexpr,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Where the entries of `J` codes next to each other are, of `RR` rows each of T threads.

    Args:
        codes: pointer to the codes `[rows, per_row]`.
        row: first row of each thread, `[T]`; the others are 8 rows apart.
        rows: rows there are; the last stands for those beyond.
        place: first code of each thread in its row, `[T]`.
        per_row: codes of a row; those beyond read as 0, where `MASKED`.
        step: from a code to the next.
        RR: rows.
        J: codes; code `j` is of the codebook `j % KV`.
        KV: codebooks.
        ENTRIES: entries of a codebook, a power of two.
        PAIRS: whether `codes` are words of two 8-bit codes; `per_row` counts words then.
        MASKED: whether codes may be missing.
        FIRST: see `jit.loads`.

    Returns:
        Numbers of entries, counted over all codebooks, `[T, RR, J]`; without `FIRST`,
        `[RR, J, T]`.
    """
    # Triton lays out operands for bytes if it sees bytes loaded, or a join on the way.
    each: tl.constexpr = 2 if PAIRS else 1
    at: tl.constexpr = 0 if FIRST else 1
    down: tl.constexpr = 1 if FIRST else 0
    which = along(row, at, 2) + along(tl.arange(0, RR) * 8, down, 2)
    which = tl.minimum(which, rows - 1)
    number = tl.arange(0, J // each) * step
    where = which.to(tl.int64) * per_row + along(place // each, at, 2)
    where = codes + tl.expand_dims(where, 2) + along(number, 2, 3)
    if MASKED:
        there = along(place // each, at, 3) + along(number, 2, 3) < per_row
        there = there & (tl.expand_dims(which, 2) >= 0)
        found = tl.load(where, mask=there, other=0, eviction_policy="evict_first")
    else:
        found = tl.load(where, eviction_policy="evict_first")
    index = found.to(tl.int32)
    if PAIRS:
        index = tl.expand_dims(index, 3) >> along(tl.arange(0, 2) * 8, 3, 4)
        index = tl.reshape(index, (index.shape[0], index.shape[1], J))
    index = (index & (ENTRIES - 1)) + along(tl.arange(0, J) % KV * ENTRIES, 2, 3)
    if not FIRST:
        index = tl.permute(index, (0, 2, 1))  # RR J T
    return index


@triton.jit
def load_entries(books, index, FIRST: tl.constexpr):
    """The entries that `load_indices` numbers, `[T, RR, J, 8]`."""
    where = books + tl.expand_dims(index, 3) * 8 + along(tl.arange(0, 8), 3, 4)
    values = tl.load(where, eviction_policy="evict_last")
    if not FIRST:
        values = tl.permute(values, (2, 0, 1, 3))
    return values
