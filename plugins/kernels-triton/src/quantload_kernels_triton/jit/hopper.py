"""The product for very many rows of activations on Hopper: some warps decode, others multiply.

The tensor cores of Hopper take both operands from shared memory, and run while the warps
that started them do other things. Here some warps bring weights there, decoded, through
a ring of buffers; the others do nothing but products. So
decoding takes no time of the tensor cores, and a tile takes about what it takes with a
float weight.

This is written in Gluon, where layouts and waiting are explicit. Gluon is young: what
changed its name between triton 3.6 and 3.9 is looked up here. Where it is absent or
older, importing this module fails and `many_rows` serves.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from quantload_kernels_triton.jit.fields import field_asm
from quantload_kernels_triton.jit.groups import multiply_asm
from quantload_kernels_triton.jit.pack import start_next

copy_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
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
def plane_of(words, zero, scale, fine, PLANE: gl.constexpr, SPLIT: gl.constexpr):
    """Weights of one plane; see `groups.scaled_plane`."""
    BF16: gl.constexpr = scale.dtype == gl.bfloat16
    codes = gl.inline_asm_elementwise(
        field_asm(4, PLANE, BF16),
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
def made_of(
    words,
    scale_pairs,
    zero_pairs,
    SPLIT: gl.constexpr,
    R: gl.constexpr,
    W: gl.constexpr,
    SCALES: gl.constexpr,
    DT: gl.constexpr,
    LAYOUT: gl.constexpr,
    OPERAND: gl.constexpr,
):
    """Weights `[16 R W, 64]` of words `[R, W, 128]`, two of 16 bits in an int32."""
    BF16: gl.constexpr = gl.bfloat16 == DT
    # -(128 + z) or 1024 + z, as `fields.prepared_zero` has it.
    MAGIC: gl.constexpr = -0x3CFF3D00 if BF16 else 0x64006400
    zero = of_rows(zero_pairs ^ MAGIC, BF16, R, W, LAYOUT)
    stored = of_rows(scale_pairs, gl.bfloat16 == SCALES, R, W, LAYOUT)
    scale = stored.to(DT)
    fine = scale
    if SPLIT:
        fine = (stored.to(gl.float32) - scale.to(gl.float32)).to(DT)
    first, second = gl.inline_asm_elementwise(
        "mov.b32 {$0, $1}, $2;",
        "=h,=h,r",
        [words],
        dtype=(gl.int16, gl.int16),
        is_pure=True,
        pack=1,
    )
    words = gl.reshape(gl.join(first, second), (R, W, 8, 4, 2, 2, 2))
    words = gl.convert_layout(words, LAYOUT, assert_trivial=True)
    zero, words = gl.broadcast(zero, words)
    scale, words = gl.broadcast(scale, words)
    fine, words = gl.broadcast(fine, words)
    low = gl.join(
        plane_of(words, zero, scale, fine, 0, SPLIT), plane_of(words, zero, scale, fine, 1, SPLIT)
    )
    high = gl.join(
        plane_of(words, zero, scale, fine, 2, SPLIT), plane_of(words, zero, scale, fine, 3, SPLIT)
    )
    four = gl.permute(gl.join(low, high), (0, 1, 5, 2, 8, 7, 4, 3, 6))  # R W r8 g plane k8 t p
    return gl.convert_layout(gl.reshape(four, (R * W * 16, 64)), OPERAND, assert_trivial=True)


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
def multiply(
    xs,
    ws,
    brought,
    made,
    free,
    count,
    x,
    token,
    begin,
    TALL: gl.constexpr,
    ROWS: gl.constexpr,
    STAGES: gl.constexpr,
    W: gl.constexpr,
):
    """The sums `[TALL, ROWS]` over `count` steps of 64 columns; it also brings its part of x."""
    BYTES: gl.constexpr = ROWS * 64 * 2
    MMA: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [W, 1], [16, ROWS, 16])
    for stage in gl.static_range(STAGES):
        there = stage < count
        mbarrier.expect(brought.index(stage), BYTES, pred=there)
        copy_tile(
            x,
            [token, (begin + stage) * 64],
            brought.index(stage),
            xs.index(stage),
            pred=there,
        )
    sums = gl.zeros([TALL, ROWS], gl.float32, MMA)
    for step in range(count):
        slot = step % STAGES
        phase = step // STAGES & 1
        mbarrier.wait(brought.index(slot), phase)
        mbarrier.wait(made.index(slot), phase)
        # What others wrote in the common way, the tensor cores may read from here on.
        fence_async_shared()
        right = xs.index(slot).permute((1, 0))
        sums = warpgroup_mma(ws.index(slot), right, sums, is_async=True)
        sums = warpgroup_mma_wait(1, deps=[sums])
        barrier()  # nobody reads any more what the product before this one read
        last = (step + STAGES - 1) % STAGES
        mbarrier.arrive(free.index(last), pred=step > 0)
        later = step + STAGES - 1
        again = (step > 0) & (later < count)
        mbarrier.expect(brought.index(last), BYTES, pred=again)
        copy_tile(x, [token, (begin + later) * 64], brought.index(last), xs.index(last), pred=again)
    return (warpgroup_mma_wait(0, deps=[sums]),)


@gluon.jit
def put(ws, made, free, step, weights, STAGES: gl.constexpr):
    """Weights of a step into the ring, as soon as there is room."""
    slot = step % STAGES
    mbarrier.wait(free.index(slot), (step // STAGES & 1) ^ 1)
    ws.index(slot).store(weights)
    barrier()
    mbarrier.arrive(made.index(slot))


@gluon.jit
def make(
    ws,
    made,
    free,
    count,
    words,
    scales,
    zeros,
    segments,
    first,
    begin,
    columns,
    tiles,
    steps,
    groups,
    turn,
    GROUP: gl.constexpr,
    RUN: gl.constexpr,
    LISTED: gl.constexpr,
    SYMMETRIC: gl.constexpr,
    SPLIT: gl.constexpr,
    TALL: gl.constexpr,
    STAGES: gl.constexpr,
    MAKERS: gl.constexpr,
):
    """Fills the ring with weights: 64 columns of `TALL` rows a step.

    `MAKERS` of these take turns; this one has the steps `turn`, `turn + MAKERS` and so on. What
    a step needs from memory is asked for three of its own steps before.
    """
    W: gl.constexpr = 4
    R: gl.constexpr = TALL // 16 // W
    DT: gl.constexpr = ws.dtype
    SCALES: gl.constexpr = scales.dtype.element_ty
    MMA: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [W, 1], [16, 64, 16])
    OPERAND: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    BLOCK: gl.constexpr = gl.BlockedLayout([R, 1, 4], [1, 1, 32], [1, W, 1], [2, 1, 0])
    LANES: gl.constexpr = gl.BlockedLayout(
        [R, 1, 1, 1, 2, 2, 2], [1, 1, 8, 4, 1, 1, 1], [1, W, 1, 1, 1, 1, 1], [6, 5, 4, 3, 2, 1, 0]
    )
    PAIRS: gl.constexpr = gl.BlockedLayout([R, 1], [1, 32], [1, W], [1, 0])
    tile = gl.arange(0, R, gl.SliceLayout(1, gl.SliceLayout(2, BLOCK)))
    tile = gl.expand_dims(gl.expand_dims(tile, 1), 2) * W
    warp = gl.arange(0, W, gl.SliceLayout(0, gl.SliceLayout(2, BLOCK)))
    tile = first + tile + gl.expand_dims(gl.expand_dims(warp, 0), 2)
    word = gl.arange(0, 128, gl.SliceLayout(0, gl.SliceLayout(1, BLOCK)))
    word = gl.expand_dims(gl.expand_dims(word, 0), 1)
    words_at = words.to(gl.pointer_type(gl.int32)) + word
    words_at += gl.minimum(tile, tiles - 1).to(gl.int64) * (steps * 128)
    lane = gl.expand_dims(gl.arange(0, W * 32, gl.SliceLayout(0, PAIRS)), 0)
    tile2 = first + gl.expand_dims(gl.arange(0, R, gl.SliceLayout(1, PAIRS)), 1) * W + lane // 32
    pair = gl.minimum(tile2, tiles - 1) * 8 + lane // 4 % 8
    scales_at = scales.to(gl.pointer_type(gl.int32)) + pair
    zeros_at = zeros.to(gl.pointer_type(gl.int32)) + pair
    middle = gl.full([R, W * 32], 8 * 65537, gl.int32, PAIRS)

    last = steps - 1
    start = begin + turn
    at0 = gl.minimum(start, last)
    at1 = gl.minimum(start + MAKERS, last)
    at2 = gl.minimum(start + 2 * MAKERS, last)
    words0 = gl.load(words_at + at0 * 128)
    words1 = gl.load(words_at + at1 * 128)
    words2 = gl.load(words_at + at2 * 128)
    row0 = group_at(at0 * 64, segments, columns, groups, GROUP, RUN, LISTED) * (tiles * 8)
    row1 = group_at(at1 * 64, segments, columns, groups, GROUP, RUN, LISTED) * (tiles * 8)
    row2 = group_at(at2 * 64, segments, columns, groups, GROUP, RUN, LISTED) * (tiles * 8)
    scale0 = gl.load(scales_at + row0)
    scale1 = gl.load(scales_at + row1)
    scale2 = gl.load(scales_at + row2)
    zero0 = middle
    zero1 = middle
    zero2 = middle
    if not SYMMETRIC:
        zero0 = gl.load(zeros_at + row0)
        zero1 = gl.load(zeros_at + row1)
        zero2 = gl.load(zeros_at + row2)
    # Three steps at a time, in registers of their own: to move what was asked for would be
    # to wait for it.
    for step in range(turn, count, 3 * MAKERS):
        weights = made_of(words0, scale0, zero0, SPLIT, R, W, SCALES, DT, LANES, OPERAND)
        put(ws, made, free, step, weights, STAGES)
        at0 = gl.minimum(begin + step + 3 * MAKERS, last)
        row0 = group_at(at0 * 64, segments, columns, groups, GROUP, RUN, LISTED) * (tiles * 8)
        words0 = gl.load(words_at + at0 * 128)
        scale0 = gl.load(scales_at + row0)
        if not SYMMETRIC:
            zero0 = gl.load(zeros_at + row0)
        if step + MAKERS < count:
            weights = made_of(words1, scale1, zero1, SPLIT, R, W, SCALES, DT, LANES, OPERAND)
            put(ws, made, free, step + MAKERS, weights, STAGES)
        at1 = gl.minimum(begin + step + 4 * MAKERS, last)
        row1 = group_at(at1 * 64, segments, columns, groups, GROUP, RUN, LISTED) * (tiles * 8)
        words1 = gl.load(words_at + at1 * 128)
        scale1 = gl.load(scales_at + row1)
        if not SYMMETRIC:
            zero1 = gl.load(zeros_at + row1)
        if step + 2 * MAKERS < count:
            weights = made_of(words2, scale2, zero2, SPLIT, R, W, SCALES, DT, LANES, OPERAND)
            put(ws, made, free, step + 2 * MAKERS, weights, STAGES)
        at2 = gl.minimum(begin + step + 5 * MAKERS, last)
        row2 = group_at(at2 * 64, segments, columns, groups, GROUP, RUN, LISTED) * (tiles * 8)
        words2 = gl.load(words_at + at2 * 128)
        scale2 = gl.load(scales_at + row2)
        if not SYMMETRIC:
            zero2 = gl.load(zeros_at + row2)


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
    tiles,
    steps,
    groups,
    steps_each,
    GROUP: gl.constexpr,
    RUN: gl.constexpr,
    LISTED: gl.constexpr,
    SYMMETRIC: gl.constexpr,
    SPLIT: gl.constexpr,
    TALL: gl.constexpr,
    ROWS: gl.constexpr,
    STAGES: gl.constexpr,
    OVERLAP: gl.constexpr,
    MAKERS: gl.constexpr,
    REGISTERS: gl.constexpr,
    W: gl.constexpr,
):
    """`y = x W^T`, or parts of it; see `many_rows.many_rows` for what is not said here.

    `x` is a descriptor of `[rows, 64 * steps]` in blocks of `[ROWS, 64]`. `BITS` is 4 or 8 (8
    in float16 only), `RUN` at least 64. Scales have 16 bits; with `SPLIT`, two numbers of the
    dtype of x stand for one of them. `W` warps multiply, `REGISTERS` are left to each of the
    threads that do not.
    """
    if OVERLAP:
        start_next()
    first = gl.program_id(1) * (TALL // 16)
    token = gl.program_id(0) * ROWS
    begin = gl.program_id(2) * steps_each
    count = gl.minimum(steps_each, steps - begin)
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    xs = gl.allocate_shared_memory(x.dtype, [STAGES, ROWS, 64], layout)
    ws = gl.allocate_shared_memory(x.dtype, [STAGES, TALL, 64], layout)
    brought = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    made = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(brought.index(stage), count=1)
        mbarrier.init(made.index(stage), count=1)
        mbarrier.init(free.index(stage), count=1)
    fence_async_shared()
    barrier()
    if MAKERS == 1:
        results = gl.warp_specialize(
            [
                (
                    multiply,
                    (
                        xs,
                        ws,
                        brought,
                        made,
                        free,
                        count,
                        x,
                        token,
                        begin,
                        TALL,
                        ROWS,
                        STAGES,
                        W,
                    ),
                ),
                (
                    make,
                    (
                        ws,
                        made,
                        free,
                        count,
                        words,
                        scales,
                        zeros,
                        segments,
                        first,
                        begin,
                        columns,
                        tiles,
                        steps,
                        groups,
                        0,
                        GROUP,
                        RUN,
                        LISTED,
                        SYMMETRIC,
                        SPLIT,
                        TALL,
                        STAGES,
                        MAKERS,
                    ),
                ),
            ],
            [4],
            [REGISTERS],
        )
    else:
        results = gl.warp_specialize(
            [
                (
                    multiply,
                    (
                        xs,
                        ws,
                        brought,
                        made,
                        free,
                        count,
                        x,
                        token,
                        begin,
                        TALL,
                        ROWS,
                        STAGES,
                        W,
                    ),
                ),
                (
                    make,
                    (
                        ws,
                        made,
                        free,
                        count,
                        words,
                        scales,
                        zeros,
                        segments,
                        first,
                        begin,
                        columns,
                        tiles,
                        steps,
                        groups,
                        0,
                        GROUP,
                        RUN,
                        LISTED,
                        SYMMETRIC,
                        SPLIT,
                        TALL,
                        STAGES,
                        MAKERS,
                    ),
                ),
                (
                    make,
                    (
                        ws,
                        made,
                        free,
                        count,
                        words,
                        scales,
                        zeros,
                        segments,
                        first,
                        begin,
                        columns,
                        tiles,
                        steps,
                        groups,
                        1,
                        GROUP,
                        RUN,
                        LISTED,
                        SYMMETRIC,
                        SPLIT,
                        TALL,
                        STAGES,
                        MAKERS,
                    ),
                ),
            ],
            [4, 4],
            [REGISTERS, REGISTERS],
        )
    DOWN: gl.constexpr = gl.BlockedLayout([8, 1], [16, 2], [1, W], [0, 1])
    out = gl.convert_layout(results[0].to(y.dtype.element_ty), DOWN)
    row = first * 16 + gl.arange(0, TALL, gl.SliceLayout(1, DOWN))
    column = token + gl.arange(0, ROWS, gl.SliceLayout(0, DOWN))
    place = (gl.program_id(2) * rows + column).to(gl.int64) * out_rows
    where = y + gl.expand_dims(place, 0) + gl.expand_dims(row, 1)
    inside = gl.expand_dims(column < rows, 0) & gl.expand_dims(row < out_rows, 1)
    gl.store(where, out, mask=inside)
