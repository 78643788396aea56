"""The product for many rows of activations on Hopper, with its tensor cores kept busy.

The same tiles as `many_rows`, written in Gluon, where layouts and waiting are explicit.
A product of Hopper runs asynchronously and reads its left operand from registers while
it does. Here each warp makes the weights of the next 32 columns while the tensor cores
work on the last; two sets of registers take turns, and a set is written again only when
the product that read it is done.

Gluon is young: what changed its name between triton 3.6 and 3.9 is looked up here. Where
it is absent, importing this module fails and `many_rows` serves.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from quantload_kernels_triton.jit.fields import field_asm
from quantload_kernels_triton.jit.groups import multiply_asm
from quantload_kernels_triton.jit.pack import start_next

copy_async = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared
barrier = getattr(gl, "barrier", None) or gl.thread_barrier


@gluon.jit
def of_rows(pairs, BF16: gl.constexpr, R: gl.constexpr, W: gl.constexpr, LAYOUT: gl.constexpr):
    """Two numbers in each int32 `[R, 32 W]`, taken apart: `[R, W, 8 g, 4 t, 1, 2 r8, 1]`."""
    if BF16:
        first, second = gl.inline_asm_elementwise(
            "mov.b32 {$0, $1}, $2;",
            "=h,=h,r",
            [pairs],
            dtype=(gl.bfloat16, gl.bfloat16),
            is_pure=True,
            pack=1,
        )
    else:
        first, second = gl.inline_asm_elementwise(
            "mov.b32 {$0, $1}, $2;",
            "=h,=h,r",
            [pairs],
            dtype=(gl.float16, gl.float16),
            is_pure=True,
            pack=1,
        )
    both = gl.reshape(gl.join(first, second), (R, W, 8, 4, 1, 2, 1))
    return gl.convert_layout(both, LAYOUT)


@gluon.jit
def plane_of(
    words,
    zero,
    scale,
    fine,
    PLANE: gl.constexpr,
    BITS: gl.constexpr,
    SPLIT: gl.constexpr,
):
    """Weights of one plane; see `groups.scaled_plane`."""
    BF16: gl.constexpr = scale.dtype == gl.bfloat16
    codes = gl.inline_asm_elementwise(
        field_asm(BITS, PLANE, BF16),
        "=r,r,r",
        [words, zero],
        dtype=scale.dtype,
        is_pure=True,
        pack=2,
    )
    if SPLIT:
        plane = gl.inline_asm_elementwise(
            multiply_asm(BF16, True),
            "=r,r,r,r",
            [codes, scale, fine],
            dtype=scale.dtype,
            is_pure=True,
            pack=2,
        )
    else:
        plane = gl.inline_asm_elementwise(
            multiply_asm(BF16, False),
            "=r,r,r",
            [codes, scale],
            dtype=scale.dtype,
            is_pure=True,
            pack=2,
        )
    return plane


@gluon.jit
def operand_of(
    words,
    zero,
    scale,
    fine,
    PLANE: gl.constexpr,
    BITS: gl.constexpr,
    SPLIT: gl.constexpr,
    R: gl.constexpr,
    W: gl.constexpr,
    LAYOUT: gl.constexpr,
    OPERAND: gl.constexpr,
):
    """Two planes of int16 words `[R, W, 256]` as left operand `[16 R W, 32]`."""
    words = gl.convert_layout(gl.reshape(words, (R, W, 8, 4, 2, 2, 2)), LAYOUT, assert_trivial=True)
    zero, words = gl.broadcast(zero, words)
    scale, words = gl.broadcast(scale, words)
    fine, words = gl.broadcast(fine, words)
    first = plane_of(words, zero, scale, fine, PLANE, BITS, SPLIT)
    second = plane_of(words, zero, scale, fine, PLANE + 1, BITS, SPLIT)
    both = gl.permute(gl.join(first, second), (0, 1, 5, 2, 7, 4, 3, 6))  # R W r8 g plane k8 t p
    return gl.convert_layout(gl.reshape(both, (R * W * 16, 32)), OPERAND, assert_trivial=True)


@gluon.jit
def group_at(
    column,
    segments,
    columns,
    groups,
    GROUP: gl.constexpr,
    RUN: gl.constexpr,
    LISTED: gl.constexpr,
):
    """See `groups.group_of`."""
    if LISTED:
        group = gl.load(segments + gl.minimum(column, columns - 1) // RUN)
    elif GROUP == 0:
        group = column * 0
    else:
        group = gl.minimum(column // GROUP, groups - 1)
    return group


@gluon.jit
def copy_step(x_at, words_at, xs, ws, slot, step, last, WORDS: gl.constexpr):
    """Begin to copy one step; beyond the last, that one again, which nobody will read."""
    step = gl.minimum(step, last)
    copy_async(xs.index(slot), x_at + step * 64)
    copy_async(ws.index(slot), words_at + step * WORDS)
    async_copy.commit_group()


@gluon.jit(
    do_not_specialize=["rows", "columns", "tiles", "steps", "groups", "steps_each"],
)
def hopper_rows(
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
    steps,
    groups,
    steps_each,
    BITS: gl.constexpr,
    GROUP: gl.constexpr,
    RUN: gl.constexpr,
    LISTED: gl.constexpr,
    SYMMETRIC: gl.constexpr,
    SPLIT: gl.constexpr,
    ROWS: gl.constexpr,
    R: gl.constexpr,
    W: gl.constexpr,
    STAGES: gl.constexpr,
    OVERLAP: gl.constexpr,
):
    """`y = x W^T`, or parts of it; see `many_rows.many_rows` for what is not said here.

    `BITS` is 4 or 8 (8 in float16 only), `RUN` at least 64, and x has `64 * steps` columns.
    Scales have 16 bits; with `SPLIT`, two numbers of the dtype of x stand for one of them.
    """
    if OVERLAP:
        start_next()
    DT: gl.constexpr = x.dtype.element_ty
    TALL: gl.constexpr = R * W * 16
    WORDS: gl.constexpr = BITS * 64
    PLANE: gl.constexpr = 2 if BITS == 4 else 0
    MAGIC: gl.constexpr = -0x3CFF3D00 if gl.bfloat16 == DT else 0x64006400
    MMA: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [W, 1], [16, ROWS, 16])
    OPERAND: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    BLOCK: gl.constexpr = gl.BlockedLayout([R, 1, 8], [1, 1, 32], [1, W, 1], [2, 1, 0])
    ACROSS: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [W, 1], [1, 0])
    LANES: gl.constexpr = gl.BlockedLayout(
        [R, 1, 1, 1, 2, 2, 2], [1, 1, 8, 4, 1, 1, 1], [1, W, 1, 1, 1, 1, 1], [6, 5, 4, 3, 2, 1, 0]
    )
    PAIRS: gl.constexpr = gl.BlockedLayout([R, 1], [1, 32], [1, W], [1, 0])
    first = gl.program_id(1) * (R * W)
    begin = gl.program_id(2) * steps_each
    end = gl.minimum(begin + steps_each, steps)

    xs = gl.allocate_shared_memory(DT, [STAGES, ROWS, 64], gl.NVMMASharedLayout(128, 16, 2))
    flat: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0])
    ws = gl.allocate_shared_memory(gl.int16, [STAGES, R, W, WORDS], flat)
    token = gl.program_id(0) * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, ACROSS))
    token = gl.minimum(token, rows - 1).to(gl.int64)  # rows beyond are not stored
    column = gl.arange(0, 64, gl.SliceLayout(0, ACROSS))
    x_at = x + gl.expand_dims(token * x_stride, 1) + gl.expand_dims(column, 0)
    tile = gl.arange(0, R, gl.SliceLayout(1, gl.SliceLayout(2, BLOCK)))
    tile = gl.expand_dims(gl.expand_dims(tile, 1), 2) * W
    warp = gl.arange(0, W, gl.SliceLayout(0, gl.SliceLayout(2, BLOCK)))
    tile = first + tile + gl.expand_dims(gl.expand_dims(warp, 0), 2)
    word = gl.arange(0, WORDS, gl.SliceLayout(0, gl.SliceLayout(1, BLOCK)))
    word = gl.expand_dims(gl.expand_dims(word, 0), 1)
    words_at = words + gl.minimum(tile, tiles - 1).to(gl.int64) * (steps * WORDS) + word
    lane = gl.expand_dims(gl.arange(0, W * 32, gl.SliceLayout(0, PAIRS)), 0)
    tile2 = first + gl.expand_dims(gl.arange(0, R, gl.SliceLayout(1, PAIRS)), 1) * W + lane // 32
    pair = gl.minimum(tile2, tiles - 1) * 8 + lane // 4 % 8
    scales_at = scales.to(gl.pointer_type(gl.int32)) + pair
    zeros_at = zeros.to(gl.pointer_type(gl.int32)) + pair
    zero_pairs = gl.full([R, W * 32], (1 << (BITS - 1)) * 65537, gl.int32, PAIRS)

    for ahead in gl.static_range(STAGES - 2):
        copy_step(x_at, words_at, xs, ws, ahead, begin + ahead, steps - 1, WORDS)
    offset = group_at(begin * 64, segments, columns, groups, GROUP, RUN, LISTED) * (tiles * 8)
    scale_pairs = gl.load(scales_at + offset)
    if not SYMMETRIC:
        zero_pairs = gl.load(zeros_at + offset)
    sums = gl.zeros([TALL, ROWS], gl.float32, MMA)
    for step in range(begin, end):
        slot = (step - begin) % STAGES
        # -(128 + z) or 1024 + z, as `fields.prepared_zero` has it.
        zero = of_rows(zero_pairs ^ MAGIC, gl.bfloat16 == DT, R, W, LANES)
        stored = of_rows(scale_pairs, scales.dtype.element_ty == gl.bfloat16, R, W, LANES)
        scale = stored.to(DT)
        fine = scale
        if SPLIT:
            fine = (stored.to(gl.float32) - scale.to(gl.float32)).to(DT)
        async_copy.wait_group(STAGES - 3)
        fence_async_shared()
        barrier()
        block = ws.index(slot).slice(0, 256, 2).load(BLOCK)
        left = operand_of(block, zero, scale, fine, 0, BITS, SPLIT, R, W, LANES, OPERAND)
        right = xs.index(slot)
        sums = warpgroup_mma(left, right.slice(0, 32, 1).permute((1, 0)), sums, is_async=True)
        sums = warpgroup_mma_wait(1, deps=[sums])
        if BITS == 8:
            block = ws.index(slot).slice(256, 256, 2).load(BLOCK)
        other = operand_of(block, zero, scale, fine, PLANE, BITS, SPLIT, R, W, LANES, OPERAND)
        later = step + STAGES - 2
        copy_step(x_at, words_at, xs, ws, (later - begin) % STAGES, later, steps - 1, WORDS)
        offset = group_at((step + 1) * 64, segments, columns, groups, GROUP, RUN, LISTED) * (
            tiles * 8
        )
        scale_pairs = gl.load(scales_at + offset)
        if not SYMMETRIC:
            zero_pairs = gl.load(zeros_at + offset)
        sums = warpgroup_mma(other, right.slice(32, 32, 1).permute((1, 0)), sums, is_async=True)
        sums = warpgroup_mma_wait(1, deps=[sums])
    sums = warpgroup_mma_wait(0, deps=[sums])
    async_copy.wait_group(0)

    DOWN: gl.constexpr = gl.BlockedLayout([8, 1], [16, 2], [1, W], [0, 1])
    out = gl.convert_layout(sums.to(y.dtype.element_ty), DOWN)
    row = first * 16 + gl.arange(0, TALL, gl.SliceLayout(1, DOWN))
    token = gl.program_id(0) * ROWS + gl.arange(0, ROWS, gl.SliceLayout(0, DOWN))
    place = (gl.program_id(2) * rows + token).to(gl.int64) * out_rows
    where = y + gl.expand_dims(place, 0) + gl.expand_dims(row, 1)
    inside = gl.expand_dims(token < rows, 0) & gl.expand_dims(row < out_rows, 1)
    gl.store(where, out, mask=inside)
