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

copy_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
barrier = getattr(gl, "barrier", None) or gl.thread_barrier


@gluon.jit
def bring(ring, x, token, begin, count, rounds, rows, STAGES: gl.constexpr):
    """Activations into the ring, 64 columns a step; from step `count` on, zeros."""
    xs, brought, free = ring
    BYTES: gl.constexpr = xs.shape[1] * 64 * 2
    for step in range(rounds):
        slot = step % STAGES
        mbarrier.wait(free.index(slot), (step // STAGES & 1) ^ 1)
        mbarrier.expect(brought.index(slot), BYTES)
        # Rows that are not there are zeros.
        row = gl.where(step < count, token, rows)
        copy_tile(x, [row, (begin + step) * 64], brought.index(slot), xs.index(slot))


@gluon.jit
def advance(
    sums,
    weights,
    held,
    ring,
    step,
    LAST: gl.constexpr,
    STAGES: gl.constexpr,
    DECODE: gl.constexpr,
    OPERAND: gl.constexpr,
    FORM: gl.constexpr,
):
    """The product of a step, and the weights of the next one, decoded while it ran.

    `LAST` says that this group has no further product with the same activations.
    """
    xs, brought, free = ring
    slot = step % STAGES
    mbarrier.wait(brought.index(slot), step // STAGES & 1)
    sums = warpgroup_mma(weights, xs.index(slot).permute((1, 0)), sums, is_async=True)
    later = DECODE(held, xs.dtype, OPERAND, FORM)
    # The product reads its weights from registers while it runs: until then they are in use.
    sums, weights, later = warpgroup_mma_wait(0, deps=[sums, weights, later])
    if LAST:
        barrier()
        mbarrier.arrive(free.index(slot))
    return sums, later
