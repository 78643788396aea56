"""Scales and offsets of 16 or 32 columns, in float32."""

from __future__ import annotations

import triton
import triton.language as tl

from quantload_kernels_triton.jit.loads import along


@triton.jit
def load_rows(
    base,
    per_tile,
    offset,
    tiles,
    COUNT: tl.constexpr,
    R: tl.constexpr,
    W: tl.constexpr,
    DOWN: tl.constexpr,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,
):
    """`COUNT` values that stand side by side for each lane, `[R, W, 8 g, 4 t, COUNT]`.

    Args:
        base: pointer to the first tile.
        per_tile: elements from a tile to the next.
        offset: of each thread, `[32 * W]`, or of all.
        tiles: tiles there are from `base` on.
        COUNT: values of a lane; all four lanes of a `g` have the same.
        R: see `jit.loads.load_words`.
        W: see `R`.
        DOWN: see `R`.
        MASKED: see `R`.
        FIRST: see `jit.loads`.
    """
    thread = tl.arange(0, 32 * W)
    start = base + offset + (thread // 4) % 8 * COUNT
    at: tl.constexpr = 0 if FIRST else 1
    tile = along(tl.arange(0, R) * (W if DOWN else 1), 1 - at, 2)
    if DOWN:
        tile = tile + along(thread // 32, at, 2)
        if MASKED:
            tile = tl.minimum(tile, tiles - 1)
    where = along(start, at, 2) + tile * per_tile
    where = tl.expand_dims(where, 2) + along(tl.arange(0, COUNT), 2, 3)
    values = tl.load(where)
    if FIRST:
        values = tl.permute(values, (1, 0, 2))
    return tl.reshape(values, (R, W, 8, 4, COUNT))


@triton.jit
def load_scales(
    scales,
    group,
    first,
    tiles,
    groups,
    OFFSETS: tl.constexpr,
    R: tl.constexpr,
    W: tl.constexpr,
    DOWN: tl.constexpr,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Scales and offsets as they are stored, in float32, `[R, W, 8, 4, 2]` each.

    Without `OFFSETS` the second is the first once more.
    """
    count: tl.constexpr = 4 if OFFSETS else 2
    group = tl.minimum(group, groups - 1)
    base = scales + first.to(tl.int64) * (groups * 8 * count)
    values = load_rows(
        base,
        groups * 8 * count,
        group * (8 * count),
        tiles - first,
        count,
        R,
        W,
        DOWN,
        MASKED,
        FIRST,
    )
    values = values.to(tl.float32)
    if OFFSETS:
        scale, offset = tl.split(tl.reshape(values, (R, W, 8, 4, 2, 2)))
    else:
        scale = values
        offset = values
    return scale, offset


@triton.jit
def byte_of(word, INDEX: tl.constexpr, SIGNED: tl.constexpr):
    """A byte of a word as float32: in the mantissa of 2**23, which is then taken away."""
    if SIGNED:
        word = word ^ -2139062144  # 0x80808080: signed bytes as unsigned ones, 128 too high
    whole = ((word >> (8 * INDEX)) & 255) | 0x4B000000
    least: tl.constexpr = 8388736.0 if SIGNED else 8388608.0
    return whole.to(tl.float32, bitcast=True) - least


@triton.jit
def load_steps(
    steps,
    pair,
    first,
    tiles,
    pairs,
    SIGNED: tl.constexpr,
    R: tl.constexpr,
    W: tl.constexpr,
    DOWN: tl.constexpr,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,
):
    """A pair of steps, in float32, `[R, W, 8, 4, 2]` each; see `Form.steps_shape`."""
    pair = tl.minimum(pair, pairs - 1)
    base = steps + first.to(tl.int64) * (pairs * 8)
    word = load_rows(base, pairs * 8, pair * 8, tiles - first, 1, R, W, DOWN, MASKED, FIRST)
    word = tl.reshape(word, (R, W, 8, 4))
    one = tl.join(byte_of(word, 0, SIGNED), byte_of(word, 1, SIGNED))
    other = tl.join(byte_of(word, 2, SIGNED), byte_of(word, 3, SIGNED))
    return one, other


@triton.jit
def load_minima(
    minima,
    pair,
    first,
    tiles,
    supers,
    R: tl.constexpr,
    W: tl.constexpr,
    DOWN: tl.constexpr,
    MASKED: tl.constexpr,
    FIRST: tl.constexpr,
):
    """The minima of a pair of groups, in float32, `[R, W, 8, 4, 2]` each."""
    pair = tl.minimum(pair, supers * 4 - 1)
    base = minima + first.to(tl.int64) * (supers * 32)
    # Lanes of a row have four words; those of one pair stand four apart.
    lane = tl.arange(0, 32 * W) // 4 % 8
    offset = pair // 4 * 32 + pair % 4 + lane * 3
    word = load_rows(base, supers * 32, offset, tiles - first, 1, R, W, DOWN, MASKED, FIRST)
    word = tl.reshape(word, (R, W, 8, 4))
    one = tl.join(byte_of(word, 0, False), byte_of(word, 2, False))
    other = tl.join(byte_of(word, 1, False), byte_of(word, 3, False))
    return one, other


@triton.jit
def minima_operand(
    minima,
    span,
    first,
    supers,
    R: tl.constexpr,
    W: tl.constexpr,
    DT: tl.constexpr,
    FIRST: tl.constexpr,
):
    """The minima of 256 columns as left operand, `[W, 16 R, 16]`: twice eight groups.

    Args:
        minima: pointer to minima, see `Form.minima_shape`.
        span: of each thread, `[32 * W]`, counted in 256 columns.
        first: the first tile.
        supers: how many times 256 columns there are.
        R: tiles.
        W: warps; they stand side by side.
        DT: dtype of the operand.
        FIRST: see `jit.loads`.
    """
    base = minima + first.to(tl.int64) * (supers * 32)
    at: tl.constexpr = 0 if FIRST else 1
    lane = tl.arange(0, 32 * W) % 32
    where = along(tl.minimum(span, supers - 1) * 32 + lane, at, 2)
    where = base + where + along(tl.arange(0, R) * (supers * 32), 1 - at, 2)
    word = tl.load(where)
    if FIRST:
        word = tl.permute(word, (1, 0))
    word = tl.reshape(word, (R, W, 8, 4, 1, 1, 1))
    word = word >> (along(tl.arange(0, 2) * 16, 4, 7) + along(tl.arange(0, 2) * 8, 6, 7))
    word = tl.broadcast_to(word & 255, (R, W, 8, 4, 2, 2, 2))  # R W g t r8 k8 p
    word = tl.permute(word.to(DT), (1, 0, 4, 2, 5, 3, 6))  # W R r8 g k8 t p
    return tl.reshape(word, (W, R * 16, 16))
