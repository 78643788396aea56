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
from quantload_kernels_triton.jit.warpgroups.share import share_of, write


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
    DECODE: gl.constexpr,
    FINISH: gl.constexpr,
    FORM: gl.constexpr,
):
    """What warpgroup `WHICH` does: `HIGH` times 64 rows, one of `WAYS` steps.

    What a step needs from memory is asked for four products before.
    """
    ring, shares, shared, tensors, out, first, token, begin, count, rounds = job
    WAYS: gl.constexpr = SIZES[0]
    HIGH: gl.constexpr = SIZES[1]
    STAGES: gl.constexpr = SIZES[2]
    TALL: gl.constexpr = SIZES[3]
    SPLIT: gl.constexpr = SIZES[4]
    ROWS: gl.constexpr = ring[0].shape[1]
    DT: gl.constexpr = ring[0].dtype
    WAY: gl.constexpr = WHICH % WAYS
    MMA: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16])
    OPERAND: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    ABOVE: gl.constexpr = WHICH // WAYS * HIGH * 64
    start = first + ABOVE // 16
    at = PLACES(tensors, start, FORM)
    sums = gl.zeros([64, ROWS], gl.float32, MMA)
    # Four products in a round, with registers of their own for what was asked for: to move it
    # would be to wait for it.
    if HIGH == 1:
        held0 = ahead(at, tensors, begin, count, WAY, FETCH, FORM)
        held1 = ahead(at, tensors, begin, count, WAY + WAYS, FETCH, FORM)
        held2 = ahead(at, tensors, begin, count, WAY + 2 * WAYS, FETCH, FORM)
        held3 = ahead(at, tensors, begin, count, WAY + 3 * WAYS, FETCH, FORM)
        weights = DECODE(held0, DT, OPERAND, FORM)
        spent = weights
        held0 = ahead(at, tensors, begin, count, WAY + 4 * WAYS, FETCH, FORM)
        for step in range(WAY, rounds, 4 * WAYS):
            sums, spent, weights = advance(
                sums,
                spent,
                weights,
                held1,
                ring,
                step,
                step - WAYS,
                True,
                STAGES,
                DECODE,
                OPERAND,
                FORM,
            )
            held1 = ahead(at, tensors, begin, count, step + 5 * WAYS, FETCH, FORM)
            sums, spent, weights = advance(
                sums,
                spent,
                weights,
                held2,
                ring,
                step + WAYS,
                step,
                True,
                STAGES,
                DECODE,
                OPERAND,
                FORM,
            )
            held2 = ahead(at, tensors, begin, count, step + 6 * WAYS, FETCH, FORM)
            sums, spent, weights = advance(
                sums,
                spent,
                weights,
                held3,
                ring,
                step + 2 * WAYS,
                step + WAYS,
                True,
                STAGES,
                DECODE,
                OPERAND,
                FORM,
            )
            held3 = ahead(at, tensors, begin, count, step + 7 * WAYS, FETCH, FORM)
            sums, spent, weights = advance(
                sums,
                spent,
                weights,
                held0,
                ring,
                step + 3 * WAYS,
                step + 2 * WAYS,
                True,
                STAGES,
                DECODE,
                OPERAND,
                FORM,
            )
            held0 = ahead(at, tensors, begin, count, step + 8 * WAYS, FETCH, FORM)
            # In flight from one round to the next, products would be made to wait for each other.
            sums, spent = warpgroup_mma_wait(0, deps=[sums, spent])
    else:
        below = PLACES(tensors, start + 4, FORM)
        more = gl.zeros([64, ROWS], gl.float32, MMA)
        held0 = ahead(at, tensors, begin, count, WAY, FETCH, FORM)
        held1 = ahead(below, tensors, begin, count, WAY, FETCH, FORM)
        held2 = ahead(at, tensors, begin, count, WAY + WAYS, FETCH, FORM)
        held3 = ahead(below, tensors, begin, count, WAY + WAYS, FETCH, FORM)
        weights = DECODE(held0, DT, OPERAND, FORM)
        spent = weights
        held0 = ahead(at, tensors, begin, count, WAY + 2 * WAYS, FETCH, FORM)
        for step in range(WAY, rounds, 2 * WAYS):
            sums, spent, weights = advance(
                sums,
                spent,
                weights,
                held1,
                ring,
                step,
                step - WAYS,
                True,
                STAGES,
                DECODE,
                OPERAND,
                FORM,
            )
            held1 = ahead(below, tensors, begin, count, step + 2 * WAYS, FETCH, FORM)
            more, spent, weights = advance(
                more, spent, weights, held2, ring, step, step, False, STAGES, DECODE, OPERAND, FORM
            )
            held2 = ahead(at, tensors, begin, count, step + 3 * WAYS, FETCH, FORM)
            sums, spent, weights = advance(
                sums,
                spent,
                weights,
                held3,
                ring,
                step + WAYS,
                step,
                True,
                STAGES,
                DECODE,
                OPERAND,
                FORM,
            )
            held3 = ahead(below, tensors, begin, count, step + 3 * WAYS, FETCH, FORM)
            more, spent, weights = advance(
                more,
                spent,
                weights,
                held0,
                ring,
                step + WAYS,
                step + WAYS,
                False,
                STAGES,
                DECODE,
                OPERAND,
                FORM,
            )
            held0 = ahead(at, tensors, begin, count, step + 4 * WAYS, FETCH, FORM)
            sums, more, spent = warpgroup_mma_wait(0, deps=[sums, more, spent])
        more = FINISH(more, tensors, start + 4, FORM)
        write(more, out, start * 16 + 64, token, ABOVE + 64, TALL, SPLIT)
    SHARE: gl.constexpr = WHICH // WAYS * (WAYS - 1)
    if WAY > 0:
        shares.index(SHARE + WAY - 1).store(sums)
        barrier()
        mbarrier.arrive(shared.index(SHARE + WAY - 1))
    else:
        for other in gl.static_range(WAYS - 1):
            mbarrier.wait(shared.index(SHARE + other), 0)
            sums += shares.index(SHARE + other).load(MMA)
        sums = FINISH(sums, tensors, start, FORM)
        write(sums, out, start * 16, token, ABOVE, TALL, SPLIT)


@gluon.jit
def run(
    x,
    tensors,
    out,
    columns,
    split,
    PLACES: gl.constexpr,
    FETCH: gl.constexpr,
    DECODE: gl.constexpr,
    FINISH: gl.constexpr,
    FORM: gl.constexpr,
    STACK: gl.constexpr,
    HIGH: gl.constexpr,
    WAYS: gl.constexpr,
    ROWS: gl.constexpr,
    STAGES: gl.constexpr,
    SPLIT: gl.constexpr,
    REGISTERS: gl.constexpr,
):
    """`y = x W^T`, and parts of it: a program makes a tile of `ROWS` rows, or a part of one.

    `x` is a descriptor of `[rows, columns]` in blocks of `[ROWS, 64]`. `out` is `(y, parts,
    rows, out_rows, whole)`, `split` is `(across, rest, steps_each)`: `share_of` says which tiles
    are whole ones; sums of the others go to `parts`, float32 `[parts, rest, ROWS, 64 * STACK *
    HIGH]`, for `many_rows.add_tiles`. `STACK` warpgroups have `HIGH`
    times 64 rows of the weight each; those of one of them are shared by `WAYS` of these, each of
    which takes one of `WAYS` steps. `REGISTERS` are those of a thread.

    A weight, of tiles of 16 rows, is what four functions of a kernel make of `tensors`:

    * `PLACES(tensors, tile, FORM)`: pointers for four tiles from `tile` on;
    * `FETCH(places, tensors, step, FORM)`: what a step needs of them, loaded;
    * `DECODE(fetched, dtype, layout, FORM)`: weights `[64, 64]` of it;
    * `FINISH(sums, tensors, tile, FORM)`: what is left to be done with sums `[64, ROWS]`.
    """
    across, rest, steps_each = split
    y, parts, rows, out_rows, whole = out
    beside, down, begin, count = share_of(across, whole, rest, columns // 64, steps_each, SPLIT)
    first = down * (STACK * HIGH * 4)
    token = beside * ROWS
    TURN: gl.constexpr = 4 // HIGH * WAYS
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
        for share in gl.static_range(STACK * (WAYS - 1)):
            mbarrier.init(shared.index(share), count=1)
    fence_async_shared()
    barrier()
    # Launched while the kernel before still runs: all of the above needs nothing of it.
    start_next()
    wait_for_last()
    ring = (xs, brought, free)
    job = (
        ring,
        shares,
        shared,
        tensors,
        out,
        first,
        token,
        begin,
        count,
        rounds,
    )
    SIZES: gl.constexpr = (WAYS, HIGH, STAGES, STACK * HIGH * 64, SPLIT)
    if STACK * WAYS == 1:
        gl.warp_specialize(
            [
                (multiply, (job, 0, SIZES, PLACES, FETCH, DECODE, FINISH, FORM)),
                (bring, (ring, x, token, begin, count, rounds, rows, STAGES)),
            ],
            [1],
            [24],
        )
    elif STACK * WAYS == 2:
        gl.warp_specialize(
            [
                (multiply, (job, 0, SIZES, PLACES, FETCH, DECODE, FINISH, FORM)),
                (multiply, (job, 1, SIZES, PLACES, FETCH, DECODE, FINISH, FORM)),
                (bring, (ring, x, token, begin, count, rounds, rows, STAGES)),
            ],
            [4, 1],
            [REGISTERS, 24],
        )
    elif STACK * WAYS == 3:
        gl.warp_specialize(
            [
                (multiply, (job, 0, SIZES, PLACES, FETCH, DECODE, FINISH, FORM)),
                (multiply, (job, 1, SIZES, PLACES, FETCH, DECODE, FINISH, FORM)),
                (multiply, (job, 2, SIZES, PLACES, FETCH, DECODE, FINISH, FORM)),
                (bring, (ring, x, token, begin, count, rounds, rows, STAGES)),
            ],
            [4, 4, 1],
            [REGISTERS, REGISTERS, 24],
        )
    else:
        gl.warp_specialize(
            [
                (multiply, (job, 0, SIZES, PLACES, FETCH, DECODE, FINISH, FORM)),
                (multiply, (job, 1, SIZES, PLACES, FETCH, DECODE, FINISH, FORM)),
                (multiply, (job, 2, SIZES, PLACES, FETCH, DECODE, FINISH, FORM)),
                (multiply, (job, 3, SIZES, PLACES, FETCH, DECODE, FINISH, FORM)),
                (bring, (ring, x, token, begin, count, rounds, rows, STAGES)),
            ],
            [4, 4, 4, 1],
            [REGISTERS, REGISTERS, REGISTERS, 24],
        )
