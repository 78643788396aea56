"""The ring of activations: one warp fills it, warpgroups multiply with what is in it."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from quantload_kernels_triton.jit.warpgroups.shares import share_of

copy_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
barrier = getattr(gl, "barrier", None) or gl.thread_barrier


@gluon.jit
def bring(ring, x, work, TURN: gl.constexpr, SPLIT: gl.constexpr, STAGES: gl.constexpr):
    """Activations of all shares into the ring, 64 columns a step, `TURN` steps or a multiple."""
    xs, brought, free = ring
    BYTES: gl.constexpr = xs.shape[1] * 64 * 2
    shares, split, steps, rows = work
    done = gl.program_id(0) * 0
    for number in range(gl.program_id(0), shares, gl.num_programs(0)):
        beside, down, part, begin, count = share_of(number, split, steps, SPLIT)
        rounds = (count + TURN - 1) // TURN * TURN
        for step in range(rounds):
            slot = (done + step) % STAGES
            mbarrier.wait(free.index(slot), ((done + step) // STAGES & 1) ^ 1)
            mbarrier.expect(brought.index(slot), BYTES)
            # Rows that are not there are zeros.
            row = gl.where(step < count, beside * xs.shape[1], rows)
            copy_tile(x, [row, (begin + step) * 64], brought.index(slot), xs.index(slot))
        done += rounds


@gluon.jit
def multiplied(weights, activations, PLANE: gl.constexpr, sums):
    """Starts the product of a plane: 16 of the 64 columns of activations."""
    right = activations.slice(16 * PLANE, 16, dim=1).permute((1, 0))
    return warpgroup_mma(weights, right, sums, is_async=True)


@gluon.jit
def advance(
    sums,
    running,
    planes,
    ready,
    held,
    ring,
    step,
    before,
    STAGES: gl.constexpr,
    PREPARE: gl.constexpr,
    PLANE: gl.constexpr,
    OPERAND: gl.constexpr,
    FORM: gl.constexpr,
):
    """The four products of a step, and while they run, the weights of the next one.

    A product reads its weights from registers as long as it runs: they are kept until the one
    after it has been started and it has been waited for. Then the next plane is decoded there.

    Args:
        sums: what the products are added to.
        running: weights of the product before, which may still run.
        planes: those of the first three planes of this step.
        ready: what the fourth is made of.
        held: what the next step is made of.
        ring: activations, and who may have them.
        step: which of them.
        before: those of the product before; negative where there was none.
        STAGES: how many the ring holds.
        PREPARE: see `engine.run`, as for `PLANE`.
        PLANE: see `PREPARE`.
        OPERAND: layout of weights.
        FORM: what `PREPARE` and `PLANE` know of the weight.

    Returns:
        `sums`, `running`, `planes` and `ready` of the next step.
    """
    xs, brought, free = ring
    first, second, third = planes
    DT: gl.constexpr = xs.dtype
    slot = step % STAGES
    mbarrier.wait(brought.index(slot), step // STAGES & 1)
    sums = multiplied(first, xs.index(slot), 0, sums)
    sums, running = warpgroup_mma_wait(1, deps=[sums, running])
    barrier()
    mbarrier.arrive(free.index((before + STAGES) % STAGES), pred=before >= 0)
    fourth = PLANE(ready, 3, DT, OPERAND, FORM)
    sums = multiplied(second, xs.index(slot), 1, sums)
    sums, first = warpgroup_mma_wait(1, deps=[sums, first])
    ready = PREPARE(held, DT, FORM)
    later = PLANE(ready, 0, DT, OPERAND, FORM)
    sums = multiplied(third, xs.index(slot), 2, sums)
    sums, second = warpgroup_mma_wait(1, deps=[sums, second])
    later1 = PLANE(ready, 1, DT, OPERAND, FORM)
    sums = multiplied(fourth, xs.index(slot), 3, sums)
    sums, third = warpgroup_mma_wait(1, deps=[sums, third])
    later2 = PLANE(ready, 2, DT, OPERAND, FORM)
    return sums, fourth, (later, later1, later2), ready
