"""The warps that decode, of the kernel whose warps share the work; see `jit.hopper`."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from quantload_kernels_triton.jit.hopper_weights import made_of
from quantload_kernels_triton.jit.warpgroups.groups import group_at
from quantload_kernels_triton.jit.warpgroups.ring import barrier


@gluon.jit
def put(ws, made, free, step, weights, STAGES: gl.constexpr):
    """Weights of a step into the ring, as soon as there is room."""
    slot = step % STAGES
    mbarrier.wait(free.index(slot), (step // STAGES & 1) ^ 1)
    ws.index(slot).store(weights)
    barrier()
    mbarrier.arrive(made.index(slot))


@gluon.jit
def make(job, TURN: gl.constexpr, SIZES: gl.constexpr):
    """Fills the ring with weights: 64 columns of `TALL` rows a step.

    `MAKERS` of these take turns; this one has the steps `TURN`, `TURN + MAKERS` and so on. What
    a step needs from memory is asked for three of its own steps before.
    """
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
    ) = job
    GROUP: gl.constexpr = SIZES[0]
    RUN: gl.constexpr = SIZES[1]
    LISTED: gl.constexpr = SIZES[2]
    SYMMETRIC: gl.constexpr = SIZES[3]
    SPLIT: gl.constexpr = SIZES[4]
    TALL: gl.constexpr = SIZES[5]
    STAGES: gl.constexpr = SIZES[6]
    MAKERS: gl.constexpr = SIZES[7]
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
    start = begin + TURN
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
    for step in range(TURN, count, 3 * MAKERS):
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
