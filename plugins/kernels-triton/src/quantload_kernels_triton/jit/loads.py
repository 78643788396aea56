"""Loads that put every value where a tensor-core operand wants it.

Every tensor here has one dimension of all threads of the program, `32 * W`, next to
dimensions that live in the registers of a thread. Triton hands the dimensions of a load
out to threads in an order of its own: among dimensions that are not contiguous in
memory, the first of them before version 3.7 and the last since. `FIRST` says which, and
the dimension of the threads is put there. A wrong guess costs time and nothing else.

Names of dimensions: R tiles of rows, U units of columns, W warps, g and t the lane
`4 * g + t` of a warp, k8 and r8 the halves of 16 columns or rows, p a pair of columns.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def along(value, AXIS: tl.constexpr, RANK: tl.constexpr):
    """A vector as a tensor of `RANK` dimensions that varies along one of them."""
    for axis in tl.static_range(RANK):
        if axis != AXIS:
            value = tl.expand_dims(value, axis)
    return value


@triton.jit
def load_words(
    base,
    per_tile,
    per_unit: tl.constexpr,
    tiles,
    units,
    R: tl.constexpr,
    U: tl.constexpr,
    W: tl.constexpr,
    DOWN: tl.constexpr,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Words of `R` tiles and `U` units a warp, `[R, U, W, 8 g, 4 t, 2 k8, 2 r8, 2 p]`.

    Args:
        base: pointer to the first block of the first warp.
        per_tile: words from a tile to the next.
        per_unit: words from a unit to the next.
        tiles: tiles there are from `base` on; where `MASKED`, the last stands for those beyond.
        units: units there are from `base` on; where `MASKED`, those beyond read as zero.
        R: tiles of a warp.
        U: units of a warp.
        W: warps.
        DOWN: the warps stand one below the other (tile `r * W + w`) and have the same
            units; otherwise side by side (unit `w * U + u`), and have the same tiles.
        MASKED: whether there may be less than what is asked for; any but 0 is a yes.
        FIRST: see the module.
    """
    thread = tl.arange(0, 32 * W)
    warp, lane = thread // 32, thread % 32
    at: tl.constexpr = 0 if FIRST else 2
    row: tl.constexpr = 1 if FIRST else 0
    column: tl.constexpr = 2 if FIRST else 1
    unit = tl.arange(0, U)
    if DOWN:
        if MASKED:
            tile = along(tl.arange(0, R) * W, row, 4) + along(warp, at, 4)
            where = base + tl.minimum(tile, tiles - 1) * per_tile
            where = where + along(lane * 8, at, 4)
        else:
            where = along(base + warp * per_tile + lane * 8, at, 4)
            where = where + along(tl.arange(0, R) * (per_tile * W), row, 4)
        number = along(unit, column, 4)
    else:
        where = along(base + warp * (U * per_unit) + lane * 8, at, 4)
        where = where + along(tl.arange(0, R) * per_tile, row, 4)
        number = along(unit, column, 4) + along(warp * U, at, 4)
    where = where + along(tl.arange(0, 8), 3, 4) + along(unit * per_unit, column, 4)
    if MASKED:
        words = tl.load(where, mask=number < units, other=0, eviction_policy="evict_first")
    else:
        words = tl.load(where, eviction_policy="evict_first")
    if FIRST:
        words = tl.permute(words, (1, 2, 0, 3))
    return tl.reshape(words, (R, U, W, 8, 4, 2, 2, 2))


@triton.jit
def load_pairs(
    base,
    offset,
    tiles,
    R: tl.constexpr,
    W: tl.constexpr,
    DOWN: tl.constexpr,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,
):
    """A value for each row, `[R, W, 8 g, 4 t, 2 r8]`.

    Args:
        base: pointer to values `[tiles, 8 g, 2 r8]`, at the first tile.
        offset: of each thread, `[32 * W]`, or of all.
        tiles: see `load_words`.
        R: see `load_words`.
        W: see `load_words`.
        DOWN: see `load_words`.
        MASKED: see `load_words`.
        FIRST: see the module.
    """
    thread = tl.arange(0, 32 * W)
    start = base + offset + (thread // 4) % 8 * 2
    at: tl.constexpr = 0 if FIRST else 1
    tile = along(tl.arange(0, R) * (W if DOWN else 1), 1 - at, 2)
    if DOWN:
        tile = tile + along(thread // 32, at, 2)
        if MASKED:
            tile = tl.minimum(tile, tiles - 1)
    where = tl.expand_dims(along(start, at, 2) + tile * 16, 2) + along(tl.arange(0, 2), 2, 3)
    values = tl.load(where)
    if FIRST:
        values = tl.permute(values, (1, 0, 2))
    return tl.reshape(values, (R, W, 8, 4, 2))


@triton.jit
def load_activations(
    x,
    row_stride,
    column,
    rows,
    columns,
    units,
    per_unit: tl.constexpr,
    U: tl.constexpr,
    N8: tl.constexpr,
    W: tl.constexpr,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Activations as right operand: `[W, 16 U columns, 8 N8 rows of x]`.

    Args:
        x: pointer to activations `[rows, columns]`, its columns contiguous.
        row_stride: elements from a row to the next.
        column: the first column of the first warp.
        rows: rows of x; those beyond read as zero.
        columns: columns of x; those beyond read as zero, where `MASKED` is 2.
        units: units there are from `column` on; those beyond read as zero, where `MASKED` is 1.
        per_unit: columns of a unit.
        U: units of a warp; warps stand side by side.
        N8: rows of x in eights.
        W: warps.
        MASKED: 1 where there may be units beyond, 2 where columns.
        FIRST: see the module.
    """
    thread = tl.arange(0, 32 * W)
    token = (thread // 4) % 8
    at: tl.constexpr = 0 if FIRST else 3
    eights: tl.constexpr = 1 if FIRST else 0
    units_at: tl.constexpr = 2 if FIRST else 1
    halves: tl.constexpr = 3 if FIRST else 2
    across = (thread // 32) * (U * per_unit) + (thread % 4) * 2
    inner = along(tl.arange(0, U) * per_unit, units_at, 5) + along(tl.arange(0, 2) * 8, halves, 5)
    mask = along(token, at, 5) + along(tl.arange(0, N8) * 8, eights, 5) < rows
    if MASKED == 2:
        there = column + along(across, at, 5) + along(tl.arange(0, 2), 4, 5) + inner < columns
        mask = mask & there
    elif MASKED == 1:
        there = along(thread // 32 * U, at, 5) + along(tl.arange(0, U), units_at, 5) < units
        mask = mask & there
    pointers = along(x + column + token * row_stride + across, at, 5)
    pointers = pointers + along(tl.arange(0, 2), 4, 5) + inner
    pointers = pointers + along(tl.arange(0, N8) * (8 * row_stride), eights, 5)
    values = tl.load(pointers, mask=mask, other=0.0)
    if FIRST:
        values = tl.permute(values, (1, 2, 3, 0, 4))
    values = tl.reshape(values, (N8, U, 2, W, 8, 4, 2))
    values = tl.permute(values, (3, 1, 2, 5, 6, 0, 4))
    return tl.reshape(values, (W, U * 16, N8 * 8))


@triton.jit
def load_packed(
    x,
    place,
    per_eight,
    per_unit: tl.constexpr,
    U: tl.constexpr,
    N8: tl.constexpr,
    W: tl.constexpr,
    FIRST: tl.constexpr,
):
    """As `load_activations`, of what `pack.pack_rows` wrote.

    Args:
        x: pointer to packed activations.
        place: of the first warp's first unit, in columns.
        per_eight: elements from eight rows to the next eight.
        per_unit: columns of a unit.
        U: see `load_activations`.
        N8: see `load_activations`.
        W: see `load_activations`.
        FIRST: see the module.
    """
    thread = tl.arange(0, 32 * W)
    at: tl.constexpr = 0 if FIRST else 2
    eights: tl.constexpr = 1 if FIRST else 0
    units_at: tl.constexpr = 2 if FIRST else 1
    start = x + place * 8 + (thread // 32) * (U * per_unit * 8) + (thread % 32) * 4
    pointers = along(start, at, 4) + along(tl.arange(0, 4), 3, 4)
    pointers = pointers + along(tl.arange(0, N8) * per_eight, eights, 4)
    pointers = pointers + along(tl.arange(0, U) * (per_unit * 8), units_at, 4)
    values = tl.load(pointers)
    if FIRST:
        values = tl.permute(values, (1, 2, 0, 3))
    values = tl.reshape(values, (N8, U, W, 8, 4, 2, 2))
    values = tl.permute(values, (2, 1, 5, 4, 6, 0, 3))
    return tl.reshape(values, (W, U * 16, N8 * 8))
