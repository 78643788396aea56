"""The product for very many rows of activations on Hopper: some warps decode, others multiply.

The tensor cores of Hopper take both operands from shared memory, and run while the warps
that started them do other things. Here some warps bring weights there, decoded, through
a ring of buffers; the others do nothing but products. So
decoding takes no time of the tensor cores, and a tile takes about what it takes with a
float weight.

This is written in Gluon, where layouts and waiting are explicit. Where it is absent or
older, importing this module fails and `many_rows` serves.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from quantload_kernels_triton.jit.hopper_makers import make
from quantload_kernels_triton.jit.pack import start_next, wait_for_last
from quantload_kernels_triton.jit.warpgroups.ring import barrier, copy_tile
from quantload_kernels_triton.jit.warpgroups.share import put, share_of


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
    W: gl.constexpr,
):
    """The sums `[TALL, ROWS]` over `count` steps of 64 columns; it also brings its part of x."""
    STAGES: gl.constexpr = xs.shape[0]
    ROWS: gl.constexpr = xs.shape[1]
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


@gluon.jit(
    do_not_specialize=[
        "rows",
        "columns",
        "tiles",
        "steps",
        "groups",
        "across",
        "whole",
        "parts",
        "steps_each",
    ],
)
def hopper_rows(
    x,
    words,
    scales,
    zeros,
    segments,
    y,
    room,
    rows,
    columns,
    out_rows,
    tiles,
    steps,
    groups,
    across,
    whole,
    parts,
    steps_each,
    GROUP: gl.constexpr,
    RUN: gl.constexpr,
    LISTED: gl.constexpr,
    SYMMETRIC: gl.constexpr,
    TWO: gl.constexpr,
    SPLIT: gl.constexpr,
    TALL: gl.constexpr,
    ROWS: gl.constexpr,
    STAGES: gl.constexpr,
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
    beside, down, _, begin, count = share_of(across, whole, parts, steps, steps_each, SPLIT)
    first = down * (TALL // 16)
    token = beside * ROWS
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
    # Launched while the kernel before still runs: all of the above needs nothing of it.
    start_next()
    wait_for_last()
    job = (
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
    )
    SIZES: gl.constexpr = (GROUP, RUN, LISTED, SYMMETRIC, TWO, TALL, STAGES, MAKERS)
    if MAKERS == 1:
        results = gl.warp_specialize(
            [
                (multiply, (xs, ws, brought, made, free, count, x, token, begin, TALL, W)),
                (make, (job, 0, SIZES)),
            ],
            [4],
            [REGISTERS],
        )
    else:
        results = gl.warp_specialize(
            [
                (multiply, (xs, ws, brought, made, free, count, x, token, begin, TALL, W)),
                (make, (job, 0, SIZES)),
                (make, (job, 1, SIZES)),
            ],
            [4, 4],
            [REGISTERS, REGISTERS],
        )
    if SPLIT:
        behind = gl.program_id(0) - whole
        if behind >= 0:
            start = room + behind.to(gl.int64) * (ROWS * TALL)
            put(results[0], start, 0, 0, TALL, ROWS, TALL)
        else:
            put(results[0], y, first * 16, token, out_rows, rows, out_rows)
    else:
        put(results[0], y, first * 16, token, out_rows, rows, out_rows)
