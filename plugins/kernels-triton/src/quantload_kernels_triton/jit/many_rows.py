"""The product for many rows of activations: tiles of `y^T = W x^T` on the tensor cores.

Weights are made in registers, in the layout of the left operand, and never stored. The
warps of a program stand one below the other. Activations pass through shared memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quantload_kernels_triton.jit.groups import (
    group_of,
    load_offsets,
    load_scales,
    load_zeros,
    scaled_plane,
)
from quantload_kernels_triton.jit.loads import load_words
from quantload_kernels_triton.jit.pack import start_next, wait_for_last
from quantload_kernels_triton.jit.tables import looked_up


@triton.jit
def finished(sums):
    """The same sums, once the tensor cores are done with them.

    An asynchronous product of Hopper reads its left operand from registers while it runs.
    Triton (seen in 3.6) lets a loop write the next operand into them too early, unless
    something in the loop uses the sums; here it is an instruction that does nothing.
    """
    return tl.inline_asm_elementwise("", "=f,0", [sums], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def in_order(planes, COUNT: tl.constexpr, R: tl.constexpr, U: tl.constexpr, W: tl.constexpr):
    """A tuple of `COUNT` planes, shaped as by `load_words`, as `[R, W, 2 r8, 8 g, U, 16 COUNT]`."""
    if COUNT == 2:
        joined = tl.join(planes[0], planes[1])
        joined = tl.permute(joined, (0, 2, 6, 3, 1, 8, 5, 4, 7))
    elif COUNT == 4:
        joined = tl.join(tl.join(planes[0], planes[1]), tl.join(planes[2], planes[3]))
        joined = tl.permute(joined, (0, 2, 6, 3, 1, 9, 8, 5, 4, 7))
    elif COUNT == 8:
        left = tl.join(tl.join(planes[0], planes[1]), tl.join(planes[2], planes[3]))
        right = tl.join(tl.join(planes[4], planes[5]), tl.join(planes[6], planes[7]))
        joined = tl.permute(tl.join(left, right), (0, 2, 6, 3, 1, 10, 9, 8, 5, 4, 7))
    else:
        a = tl.join(tl.join(planes[0], planes[1]), tl.join(planes[2], planes[3]))
        b = tl.join(tl.join(planes[4], planes[5]), tl.join(planes[6], planes[7]))
        c = tl.join(tl.join(planes[8], planes[9]), tl.join(planes[10], planes[11]))
        d = tl.join(tl.join(planes[12], planes[13]), tl.join(planes[14], planes[15]))
        joined = tl.join(tl.join(a, b), tl.join(c, d))
        joined = tl.permute(joined, (0, 2, 6, 3, 1, 11, 10, 9, 8, 5, 4, 7))
    return tl.reshape(joined, (R, W, 2, 8, U, 16 * COUNT))


@triton.jit
def weights_of(
    words,
    scales,
    zeros,
    segments,
    first,
    unit,
    columns,
    tiles,
    units,
    groups,
    BITS: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP: tl.constexpr,
    RUN: tl.constexpr,
    LISTED: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    TABLE: tl.constexpr,
    SCALING: tl.constexpr,
    DOWN: tl.constexpr,
    MASKED: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    W: tl.constexpr,
    DT: tl.constexpr,
    OUT: tl.constexpr,
    PTX: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Weights as `OUT`, `[R, W, 2 r8, 8 g, U, UNIT]`, of units from `unit` on.

    See `load_words` for the order of tiles and units, `scaled_plane` for `SCALING`, `DT`
    and `OUT`, and `operators.affine_linear` for the tensors.
    """
    blocks: tl.constexpr = 3 if BITS == 3 else 1
    per_unit: tl.constexpr = blocks * 256
    count: tl.constexpr = UNIT // 16
    together: tl.constexpr = count if U > 1 or RUN >= UNIT else RUN // 16
    adds: tl.constexpr = zeros.dtype.element_ty.is_floating()
    per_tile = units * per_unit
    base = words + first.to(tl.int64) * per_tile + unit * per_unit
    more, left = tiles - first, units - unit
    low = load_words(base, per_tile, per_unit, more, left, R, U, W, DOWN, MASKED, FIRST)
    if BITS == 3:
        lower = load_words(base + 256, per_tile, per_unit, more, left, R, U, W, DOWN, MASKED, FIRST)
        high = load_words(base + 512, per_tile, per_unit, more, left, R, U, W, DOWN, MASKED, FIRST)
    else:
        lower = low
        high = low
    looked = ()
    if TABLE is not None:
        looked = looked_up(low, TABLE, DT, tl.float32 == OUT, PTX)
    planes = ()
    for part in tl.static_range(count // together):
        column = unit * UNIT + part * together * 16
        if not DOWN:
            column = column + tl.arange(0, 32 * W) // 32 * (U * UNIT)
        group = group_of(column, segments, columns, groups, GROUP, RUN, LISTED)
        scale = load_scales(scales, group, first, tiles, R, W, DOWN, MASKED, FIRST)
        zero = load_zeros(zeros, group, first, tiles, BITS, SYMMETRIC, R, W, DOWN, MASKED, FIRST)
        added = load_offsets(zeros, scale, group, first, tiles, BITS, R, W, DOWN, MASKED, FIRST)
        for index in tl.static_range(together):
            plane = scaled_plane(
                lower if part * together + index >= 8 else low,
                high,
                zero,
                scale,
                added,
                looked,
                adds,
                part * together + index,
                BITS,
                TABLE,
                SCALING,
                R,
                U,
                W,
                DT,
                OUT,
                PTX,
            )
            planes = planes + (plane,)
    return in_order(planes, count, R, U, W)


@triton.jit(do_not_specialize=["rows", "columns", "tiles", "units", "groups", "units_each"])
def many_rows(
    x,
    words,
    scales,
    zeros,
    segments,
    y,
    rows,
    columns,
    out_rows,
    x_stride,
    tiles,
    units,
    groups,
    units_each,
    BITS: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP: tl.constexpr,
    RUN: tl.constexpr,
    LISTED: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    TABLE: tl.constexpr,
    SCALING: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
    PTX: tl.constexpr,
    FIRST: tl.constexpr,
):
    """`y = x W^T`, or parts of it: program `(i, j, s)` makes `ROWS` rows from `i * ROWS` on.

    Their columns are those of `R * W` tiles from `j * R * W` on; `s` is a run of
    `units_each` units, a multiple of `C * U`, and `y` is `[runs, rows, out_rows]`. With
    `OVERLAP` the kernel that adds the runs may start early. See `operators.affine_linear`
    for the tensors and `loads` for the other names.
    """
    if OVERLAP:
        start_next()
    DT: tl.constexpr = x.dtype.element_ty
    TALL: tl.constexpr = R * W * 16
    first = tl.program_id(1) * (R * W)
    start = tl.program_id(2) * units_each
    stop = tl.minimum(start + units_each, units)
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, U * UNIT)
    place = x + (token.to(tl.int64) * x_stride)[:, None] + column[None, :]
    inside = (token < rows)[:, None]
    sums = tl.zeros((TALL, ROWS), tl.float32)
    for unit in tl.range(start, stop, U * C, num_stages=STAGES):
        for chunk in tl.static_range(C):
            here = unit + chunk * U
            left = weights_of(
                words,
                scales,
                zeros,
                segments,
                first,
                here,
                columns,
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
                SCALING,
                True,
                MASKED,
                R,
                U,
                W,
                DT,
                DT,
                PTX,
                FIRST,
            )
            if MASKED:
                mask = inside & (here * UNIT + column < columns)[None, :]
            else:
                mask = inside
            right = tl.load(place + here * UNIT, mask=mask, other=0.0)
            sums = tl.dot(tl.reshape(left, (TALL, U * UNIT)), tl.trans(right), sums)
        if PTX:
            sums = finished(sums)
    row = first * 16 + tl.arange(0, TALL)
    if SCALING == 3:  # one group: `scales` is [tiles, 8, 2]
        at = row // 16 * 16 + row % 8 * 2 + row // 8 % 2
        scale = tl.load(scales + at, mask=row < tiles * 16, other=0.0).to(tl.float32)
        sums *= scale[:, None]
    out = (tl.program_id(2) * rows + token).to(tl.int64)
    where = y + out[:, None] * out_rows + row[None, :]
    mask = (token < rows)[:, None] & (row < out_rows)[None, :]
    tl.store(where, tl.trans(sums).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["size"])
def add_parts(parts, y, size, COUNT: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    """`y` as the sum of `COUNT` float32 parts of `size` elements, in their order."""
    if OVERLAP:
        start_next()
        wait_for_last()
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = place < size
    total = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(COUNT):
        total += tl.load(parts + part * size.to(tl.int64) + place, mask=mask, other=0.0)
    tl.store(y + place, total.to(y.dtype.element_ty), mask=mask)
