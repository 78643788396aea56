"""The product for many rows of activations on Hopper: weights from registers.

The tensor cores of Hopper take the left operand of a warpgroup from registers, and run
while its warps do other things. So a warpgroup decodes the next 16 columns of weights while
the product of these runs, straight into the operand; activations come through a ring of
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
from quantload_kernels_triton.jit.warpgroups.shares import share_of
from quantload_kernels_triton.jit.warpgroups.sums import gather, put


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
    ring, halves, halved, tensors, y, work, gathered = job
    shares, split, steps, rows, out_rows = work
    WAYS: gl.constexpr = SIZES[0]
    STACK: gl.constexpr = SIZES[1]
    STAGES: gl.constexpr = SIZES[2]
    ROWS: gl.constexpr = ring[0].shape[1]
    DT: gl.constexpr = ring[0].dtype
    WAY: gl.constexpr = WHICH % WAYS
    BLOCK: gl.constexpr = WHICH // WAYS
    TURN: gl.constexpr = 4 * WAYS
    MMA: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16])
    OPERAND: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    done = gl.program_id(0) * 0
    for number in range(gl.program_id(0), shares, gl.num_programs(0)):
        beside, down, part, begin, count = share_of(number, split, steps, SIZES[3])
        rounds = (count + TURN - 1) // TURN * TURN
        start = (down * STACK + BLOCK) * 4
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
        for step in range(WAY, rounds, TURN):
            sums, running, planes, ready = advance(
                sums,
                running,
                planes,
                ready,
                held1,
                ring,
                done + step,
                done + step - WAYS,
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
                done + step + WAYS,
                done + step,
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
                done + step + 2 * WAYS,
                done + step + WAYS,
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
                done + step + 3 * WAYS,
                done + step + 2 * WAYS,
                STAGES,
                PREPARE,
                PLANE,
                OPERAND,
                FORM,
            )
            held0 = ahead(at, tensors, begin, count, step + 8 * WAYS, FETCH, FORM)
            # In flight from one round to the next, products would be made to wait for each other.
            sums, running = warpgroup_mma_wait(0, deps=[sums, running])
        done += rounds
        SHARE: gl.constexpr = BLOCK * (WAYS - 1)
        if WAY > 0:
            halves.index(SHARE + WAY - 1).store(sums)
            barrier()
            mbarrier.arrive(halved.index(SHARE + WAY - 1))
        else:
            for other in gl.static_range(WAYS - 1):
                mbarrier.wait(halved.index(SHARE + other), 0)
                sums += halves.index(SHARE + other).load(MMA)
            own = rows > 0
            if SIZES[3]:
                if number >= split[1]:
                    sums, own = gather(sums, gathered, number, split, part, BLOCK, STACK)
            if own:
                sums = FINISH(sums, tensors, start, FORM)
                put(sums, y, start * 16, beside * ROWS, out_rows, rows, out_rows)


@gluon.jit
def run(
    x,
    tensors,
    out,
    columns,
    shares,
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
    """`y = x W^T`, whose tiles have `ROWS` rows of activations and `64 * STACK` of the weight.

    `x` is a descriptor of `[rows, columns]` in blocks of `[ROWS, 64]`, `out` is `(y, rows,
    out_rows)`. Programs take turns with `shares` of the work; `split` is what `share_of` is told
    of them, `gathered` is what `gather` needs. `WAYS` warpgroups share the columns of 64 rows of
    the weight, each of which takes one of `WAYS` steps; where there are more than one, no program
    has a second share. `REGISTERS` are those of a thread.

    A weight, of tiles of 16 rows, is what five functions of a kernel make of `tensors`:

    * `PLACES(tensors, tile, FORM)`: pointers for four tiles from `tile` on;
    * `FETCH(places, tensors, step, FORM)`: what a step needs of them, loaded;
    * `PREPARE(fetched, dtype, FORM)`: what weights `[64, 64]` are made of;
    * `PLANE(prepared, plane, dtype, layout, FORM)`: 16 columns of those;
    * `FINISH(sums, tensors, tile, FORM)`: what is left to be done with sums `[64, ROWS]`.
    """
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    xs = gl.allocate_shared_memory(x.dtype, [STAGES, ROWS, 64], layout)
    brought = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(brought.index(stage), count=1)
        mbarrier.init(free.index(stage), count=STACK)
    halves = xs
    halved = free
    if WAYS > 1:
        half: gl.constexpr = gl.NVMMASharedLayout(128, 32, 2)
        halves = gl.allocate_shared_memory(gl.float32, [STACK * (WAYS - 1), 64, ROWS], half)
        halved = gl.allocate_shared_memory(
            gl.int64, [STACK * (WAYS - 1), 1], mbarrier.MBarrierLayout()
        )
        for other in gl.static_range(STACK * (WAYS - 1)):
            mbarrier.init(halved.index(other), count=1)
    fence_async_shared()
    barrier()
    # Launched while the kernel before still runs: all of the above needs nothing of it.
    start_next()
    wait_for_last()
    ring = (xs, brought, free)
    y, rows, out_rows = out
    steps = columns // 64
    job = (ring, halves, halved, tensors, y, (shares, split, steps, rows, out_rows), gathered)
    more = (ring, x, (shares, split, steps, rows), 4 * WAYS, SPLIT, STAGES)
    SIZES: gl.constexpr = (WAYS, STACK, STAGES, SPLIT)
    if STACK * WAYS == 1:
        gl.warp_specialize(
            [
                (multiply, (job, 0, SIZES, PLACES, FETCH, PREPARE, PLANE, FINISH, FORM)),
                (bring, more),
            ],
            [1],
            [24],
        )
    elif STACK * WAYS == 2:
        gl.warp_specialize(
            [
                (multiply, (job, 0, SIZES, PLACES, FETCH, PREPARE, PLANE, FINISH, FORM)),
                (multiply, (job, 1, SIZES, PLACES, FETCH, PREPARE, PLANE, FINISH, FORM)),
                (bring, more),
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
                (bring, more),
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
                (bring, more),
            ],
            [4, 4, 4, 1],
            [REGISTERS, REGISTERS, REGISTERS, 24],
        )
