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
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

from quantload_kernels_triton.jit.pack import start_next
from quantload_kernels_triton.jit.warpgroups.ring import advance, barrier, bring


@gluon.jit
def write(sums, y, start, token, part, rows, out_rows):
    """Sums `[64, ROWS]` of the rows from tile `start` on, as rows of y."""
    DOWN: gl.constexpr = gl.BlockedLayout([8, 1], [8, 4], [1, 4], [0, 1])
    out = gl.convert_layout(sums.to(y.dtype.element_ty), DOWN)
    row = start * 16 + gl.arange(0, 64, gl.SliceLayout(1, DOWN))
    column = token + gl.arange(0, sums.shape[1], gl.SliceLayout(0, DOWN))
    place = (part * rows + column).to(gl.int64) * out_rows
    where = y + gl.expand_dims(place, 0) + gl.expand_dims(row, 1)
    inside = gl.expand_dims(column < rows, 0) & gl.expand_dims(row < out_rows, 1)
    gl.store(where, out, mask=inside)


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
    ring, shares, shared, tensors, y, first, token, begin, count, rounds, rows, out_rows, part = job
    WAYS: gl.constexpr = SIZES[0]
    HIGH: gl.constexpr = SIZES[1]
    STAGES: gl.constexpr = SIZES[2]
    ROWS: gl.constexpr = ring[0].shape[1]
    DT: gl.constexpr = ring[0].dtype
    WAY: gl.constexpr = WHICH % WAYS
    MMA: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16])
    OPERAND: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    start = first + WHICH // WAYS * (4 * HIGH)
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
        held0 = ahead(at, tensors, begin, count, WAY + 4 * WAYS, FETCH, FORM)
        for step in range(WAY, rounds, 4 * WAYS):
            sums, weights = advance(
                sums, weights, held1, ring, step, True, STAGES, DECODE, OPERAND, FORM
            )
            held1 = ahead(at, tensors, begin, count, step + 5 * WAYS, FETCH, FORM)
            sums, weights = advance(
                sums, weights, held2, ring, step + WAYS, True, STAGES, DECODE, OPERAND, FORM
            )
            held2 = ahead(at, tensors, begin, count, step + 6 * WAYS, FETCH, FORM)
            sums, weights = advance(
                sums, weights, held3, ring, step + 2 * WAYS, True, STAGES, DECODE, OPERAND, FORM
            )
            held3 = ahead(at, tensors, begin, count, step + 7 * WAYS, FETCH, FORM)
            sums, weights = advance(
                sums, weights, held0, ring, step + 3 * WAYS, True, STAGES, DECODE, OPERAND, FORM
            )
            held0 = ahead(at, tensors, begin, count, step + 8 * WAYS, FETCH, FORM)
    else:
        below = PLACES(tensors, start + 4, FORM)
        more = gl.zeros([64, ROWS], gl.float32, MMA)
        held0 = ahead(at, tensors, begin, count, WAY, FETCH, FORM)
        held1 = ahead(below, tensors, begin, count, WAY, FETCH, FORM)
        held2 = ahead(at, tensors, begin, count, WAY + WAYS, FETCH, FORM)
        held3 = ahead(below, tensors, begin, count, WAY + WAYS, FETCH, FORM)
        weights = DECODE(held0, DT, OPERAND, FORM)
        held0 = ahead(at, tensors, begin, count, WAY + 2 * WAYS, FETCH, FORM)
        for step in range(WAY, rounds, 2 * WAYS):
            sums, weights = advance(
                sums, weights, held1, ring, step, False, STAGES, DECODE, OPERAND, FORM
            )
            held1 = ahead(below, tensors, begin, count, step + 2 * WAYS, FETCH, FORM)
            more, weights = advance(
                more, weights, held2, ring, step, True, STAGES, DECODE, OPERAND, FORM
            )
            held2 = ahead(at, tensors, begin, count, step + 3 * WAYS, FETCH, FORM)
            sums, weights = advance(
                sums, weights, held3, ring, step + WAYS, False, STAGES, DECODE, OPERAND, FORM
            )
            held3 = ahead(below, tensors, begin, count, step + 3 * WAYS, FETCH, FORM)
            more, weights = advance(
                more, weights, held0, ring, step + WAYS, True, STAGES, DECODE, OPERAND, FORM
            )
            held0 = ahead(at, tensors, begin, count, step + 4 * WAYS, FETCH, FORM)
        more = FINISH(more, tensors, start + 4, FORM)
        write(more, y, start + 4, token, part, rows, out_rows)
    SHARE: gl.constexpr = WHICH // WAYS * (WAYS - 1)
    if WAY > 0:
        shares.index(SHARE + WAY - 1).store(sums)
        barrier()
        mbarrier.arrive(shared.index(SHARE + WAY - 1))
    else:
        for other in gl.static_range(WAYS - 1):
            mbarrier.wait(shared.index(SHARE + other), 0)
            sums += shares.index(SHARE + other).load(MMA)
        write(FINISH(sums, tensors, start, FORM), y, start, token, part, rows, out_rows)


@gluon.jit
def run(
    x,
    tensors,
    y,
    rows,
    columns,
    out_rows,
    steps_each,
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
    OVERLAP: gl.constexpr,
    REGISTERS: gl.constexpr,
):
    """`y = x W^T`, or parts of it: program `(i, j, s)` makes `ROWS` rows from `i * ROWS` on.

    `x` is a descriptor of `[rows, columns]` in blocks of `[ROWS, 64]`, `y` is `[parts, rows,
    out_rows]`; `s` is a run of `steps_each` times 64 columns. `STACK` warpgroups have `HIGH`
    times 64 rows of the weight each; those of one of them are shared by `WAYS` of these, each of
    which takes one of `WAYS` steps. `REGISTERS` are those of a thread.

    A weight, of tiles of 16 rows, is what four functions of a kernel make of `tensors`:

    * `PLACES(tensors, tile, FORM)`: pointers for four tiles from `tile` on;
    * `FETCH(places, tensors, step, FORM)`: what a step needs of them, loaded;
    * `DECODE(fetched, dtype, layout, FORM)`: weights `[64, 64]` of it;
    * `FINISH(sums, tensors, tile, FORM)`: what is left to be done with sums `[64, ROWS]`.
    """
    if OVERLAP:
        start_next()
    first = gl.program_id(1) * (STACK * HIGH * 4)
    token = gl.program_id(0) * ROWS
    part = gl.program_id(2)
    begin = part * steps_each
    count = gl.minimum(steps_each, columns // 64 - begin)
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
    ring = (xs, brought, free)
    job = (
        ring,
        shares,
        shared,
        tensors,
        y,
        first,
        token,
        begin,
        count,
        rounds,
        rows,
        out_rows,
        part,
    )
    SIZES: gl.constexpr = (WAYS, HIGH, STAGES)
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
