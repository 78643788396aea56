"""The product for many rows of activations on Hopper: weights from registers.

The tensor cores of Hopper take the left operand of a warpgroup from registers, and run
while its warps do other things. So a warpgroup decodes the weights of the next step while
the product of this one runs, straight into the operand; activations come through a ring of
buffers that one more warp fills with the copy engine. What one group leaves of the tensor
cores' time, while it waits or decodes, another one takes.

What a weight consists of is not known here: a kernel hands over how it is loaded and decoded.

This is written in Gluon, where layouts and waiting are explicit. Gluon is young: what
changed its name between triton 3.6 and 3.9 is looked up in `ring`. Where it is absent or
older, importing this module fails and other kernels serve.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma_wait,
)

from quantload_kernels_triton.jit.pack import start_next, wait_for_last
from quantload_kernels_triton.jit.warpgroups.ring import advance, barrier, bring
from quantload_kernels_triton.jit.warpgroups.share import gather, put, share_of


@gluon.jit
def ahead(at, tensors, begin, count, step, FETCH: gl.constexpr, FORM: gl.constexpr):
    """What is loaded for a step; for one that there is not, what the last one needs."""
    return FETCH(at, tensors, begin + gl.minimum(step, count - 1), FORM)


@gluon.jit
def multiply(
    job,
    WHICH: gl.constexpr,
    SIZES: gl.constexpr,
    PLACES: gl.constexpr,
    FETCH: gl.constexpr,
    PREPARE: gl.constexpr,
    PLANE: gl.constexpr,
    FINISH: gl.constexpr,
    FORM: gl.constexpr,
):
    """What warpgroup `WHICH` does: 64 rows of the weight, one of `WAYS` steps.

    What a step needs from memory is asked for four steps before.
    """
    ring, shares, shared, tensors, out, split, gathered, place = job
    first, token, part, begin, count, rounds = place
    WAYS: gl.constexpr = SIZES[0]
    STACK: gl.constexpr = SIZES[1]
    STAGES: gl.constexpr = SIZES[2]
    ROWS: gl.constexpr = ring[0].shape[1]
    DT: gl.constexpr = ring[0].dtype
    WAY: gl.constexpr = WHICH % WAYS
    BLOCK: gl.constexpr = WHICH // WAYS
    MMA: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16])
    OPERAND: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    start = first + BLOCK * 4
    at = PLACES(tensors, start, FORM)
    sums = gl.zeros([64, ROWS], gl.float32, MMA)
    # Four steps in a round, with registers of their own for what was asked for: to move it
    # would be to wait for it.
    held0 = ahead(at, tensors, begin, count, WAY, FETCH, FORM)
    held1 = ahead(at, tensors, begin, count, WAY + WAYS, FETCH, FORM)
    held2 = ahead(at, tensors, begin, count, WAY + 2 * WAYS, FETCH, FORM)
    held3 = ahead(at, tensors, begin, count, WAY + 3 * WAYS, FETCH, FORM)
    ready = PREPARE(held0, DT, FORM)
    planes = (
        PLANE(ready, 0, DT, OPERAND, FORM),
        PLANE(ready, 1, DT, OPERAND, FORM),
        PLANE(ready, 2, DT, OPERAND, FORM),
    )
    running = planes[2]
    held0 = ahead(at, tensors, begin, count, WAY + 4 * WAYS, FETCH, FORM)
    for step in range(WAY, rounds, 4 * WAYS):
        sums, running, planes, ready = advance(
            sums,
            running,
            planes,
            ready,
            held1,
            ring,
            step,
            step - WAYS,
            STAGES,
            PREPARE,
            PLANE,
            OPERAND,
            FORM,
        )
        held1 = ahead(at, tensors, begin, count, step + 5 * WAYS, FETCH, FORM)
        sums, running, planes, ready = advance(
            sums,
            running,
            planes,
            ready,
            held2,
            ring,
            step + WAYS,
            step,
            STAGES,
            PREPARE,
            PLANE,
            OPERAND,
            FORM,
        )
        held2 = ahead(at, tensors, begin, count, step + 6 * WAYS, FETCH, FORM)
        sums, running, planes, ready = advance(
            sums,
            running,
            planes,
            ready,
            held3,
            ring,
            step + 2 * WAYS,
            step + WAYS,
            STAGES,
            PREPARE,
            PLANE,
            OPERAND,
            FORM,
        )
        held3 = ahead(at, tensors, begin, count, step + 7 * WAYS, FETCH, FORM)
        sums, running, planes, ready = advance(
            sums,
            running,
            planes,
            ready,
            held0,
            ring,
            step + 3 * WAYS,
            step + 2 * WAYS,
            STAGES,
            PREPARE,
            PLANE,
            OPERAND,
            FORM,
        )
        held0 = ahead(at, tensors, begin, count, step + 8 * WAYS, FETCH, FORM)
        # In flight from one round to the next, products would be made to wait for each other.
        sums, running = warpgroup_mma_wait(0, deps=[sums, running])
    SHARE: gl.constexpr = BLOCK * (WAYS - 1)
    if WAY > 0:
        shares.index(SHARE + WAY - 1).store(sums)
        barrier()
        mbarrier.arrive(shared.index(SHARE + WAY - 1))
    else:
        for other in gl.static_range(WAYS - 1):
            mbarrier.wait(shared.index(SHARE + other), 0)
            sums += shares.index(SHARE + other).load(MMA)
        y, rows, out_rows = out
        own = rows > 0
        if SIZES[3]:
            across, whole, parts, steps_each = split
            if gl.program_id(0) >= whole:
                sums, own = gather(sums, gathered, whole, parts, part, BLOCK, STACK)
        if own:
            put(FINISH(sums, tensors, start, FORM), y, start * 16, token, out_rows, rows, out_rows)


@gluon.jit
def run(
    x,
    tensors,
    out,
    columns,
    split,
    gathered,
    PLACES: gl.constexpr,
    FETCH: gl.constexpr,
    PREPARE: gl.constexpr,
    PLANE: gl.constexpr,
    FINISH: gl.constexpr,
    FORM: gl.constexpr,
    STACK: gl.constexpr,
    WAYS: gl.constexpr,
    ROWS: gl.constexpr,
    STAGES: gl.constexpr,
    SPLIT: gl.constexpr,
    REGISTERS: gl.constexpr,
):
    """`y = x W^T`: a program makes a tile, of `ROWS` rows of activations, or a part of one.

    `x` is a descriptor of `[rows, columns]` in blocks of `[ROWS, 64]`, `out` is `(y, rows,
    out_rows)`. `split` is what `share_of` is told, `gathered` is what `gather` needs. `STACK`
    times 64 rows of the weight are a tile; `WAYS` warpgroups share the columns of 64 of these,
    each of which takes one of `WAYS` steps. `REGISTERS` are those of a thread.

    A weight, of tiles of 16 rows, is what five functions of a kernel make of `tensors`:

    * `PLACES(tensors, tile, FORM)`: pointers for four tiles from `tile` on;
    * `FETCH(places, tensors, step, FORM)`: what a step needs of them, loaded;
    * `PREPARE(fetched, dtype, FORM)`: what weights `[64, 64]` are made of;
    * `PLANE(prepared, plane, dtype, layout, FORM)`: 16 columns of those;
    * `FINISH(sums, tensors, tile, FORM)`: what is left to be done with sums `[64, ROWS]`.
    """
    across, whole, parts, steps_each = split
    beside, down, part, begin, count = share_of(
        across, whole, parts, columns // 64, steps_each, SPLIT
    )
    first = down * (STACK * 4)
    token = beside * ROWS
    TURN: gl.constexpr = 4 * WAYS
    rounds = (count + TURN - 1) // TURN * TURN
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    xs = gl.allocate_shared_memory(x.dtype, [STAGES, ROWS, 64], layout)
    brought = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(brought.index(stage), count=1)
        mbarrier.init(free.index(stage), count=STACK)
    shares = xs
    shared = free
    if WAYS > 1:
        half: gl.constexpr = gl.NVMMASharedLayout(128, 32, 2)
        shares = gl.allocate_shared_memory(gl.float32, [STACK * (WAYS - 1), 64, ROWS], half)
        shared = gl.allocate_shared_memory(
            gl.int64, [STACK * (WAYS - 1), 1], mbarrier.MBarrierLayout()
        )
        for other in gl.static_range(STACK * (WAYS - 1)):
            mbarrier.init(shared.index(other), count=1)
    fence_async_shared()
    barrier()
    # Launched while the kernel before still runs: all of the above needs nothing of it.
    start_next()
    wait_for_last()
    ring = (xs, brought, free)
    place = (first, token, part, begin, count, rounds)
    job = (ring, shares, shared, tensors, out, split, gathered, place)
    SIZES: gl.constexpr = (WAYS, STACK, STAGES, SPLIT)
    if STACK * WAYS == 1:
        gl.warp_specialize(
            [
                (multiply, (job, 0, SIZES, PLACES, FETCH, PREPARE, PLANE, FINISH, FORM)),
                (bring, (ring, x, token, begin, count, rounds, out[1], STAGES)),
            ],
            [1],
            [24],
        )
    elif STACK * WAYS == 2:
        gl.warp_specialize(
            [
                (multiply, (job, 0, SIZES, PLACES, FETCH, PREPARE, PLANE, FINISH, FORM)),
                (multiply, (job, 1, SIZES, PLACES, FETCH, PREPARE, PLANE, FINISH, FORM)),
                (bring, (ring, x, token, begin, count, rounds, out[1], STAGES)),
            ],
            [4, 1],
            [REGISTERS, 24],
        )
    elif STACK * WAYS == 3:
        gl.warp_specialize(
            [
                (multiply, (job, 0, SIZES, PLACES, FETCH, PREPARE, PLANE, FINISH, FORM)),
                (multiply, (job, 1, SIZES, PLACES, FETCH, PREPARE, PLANE, FINISH, FORM)),
                (multiply, (job, 2, SIZES, PLACES, FETCH, PREPARE, PLANE, FINISH, FORM)),
                (bring, (ring, x, token, begin, count, rounds, out[1], STAGES)),
            ],
            [4, 4, 1],
            [REGISTERS, REGISTERS, 24],
        )
    else:
        gl.warp_specialize(
            [
                (multiply, (job, 0, SIZES, PLACES, FETCH, PREPARE, PLANE, FINISH, FORM)),
                (multiply, (job, 1, SIZES, PLACES, FETCH, PREPARE, PLANE, FINISH, FORM)),
                (multiply, (job, 2, SIZES, PLACES, FETCH, PREPARE, PLANE, FINISH, FORM)),
                (multiply, (job, 3, SIZES, PLACES, FETCH, PREPARE, PLANE, FINISH, FORM)),
                (bring, (ring, x, token, begin, count, rounds, out[1], STAGES)),
            ],
            [4, 4, 4, 1],
            [REGISTERS, REGISTERS, REGISTERS, 24],
        )
