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
    spent,
    weights,
    held,
    ring,
    step,
    before,
    LAST: gl.constexpr,
    STAGES: gl.constexpr,
    DECODE: gl.constexpr,
    OPERAND: gl.constexpr,
    FORM: gl.constexpr,
):
    """Starts the product of a step, and decodes the weights of the next one while it runs.

    Args:
        sums: what the product is added to.
        spent: weights of the product before, which may still run; so they stay where they are.
        weights: those of this one.
        held: what the next ones are made of.
        ring: activations, and who may have them.
        step: which of them.
        before: those of the product before; negative where there was none.
        LAST: whether this group has no further product with those.
        STAGES: how many the ring holds.
        DECODE: see `engine.run`.
        OPERAND: layout of weights.
        FORM: what `DECODE` knows of the weight.

    Returns:
        the sums, the weights of the product that runs now, those of the next one.
    """
    xs, brought, free = ring
    slot = step % STAGES
    mbarrier.wait(brought.index(slot), step // STAGES & 1)
    sums = warpgroup_mma(weights, xs.index(slot).permute((1, 0)), sums, is_async=True)
    # The tensor cores have this one to do: the one before is waited for, and what it read may be
    # written from here on.
    sums, spent = warpgroup_mma_wait(1, deps=[sums, spent])
    if LAST:
        barrier()
        mbarrier.arrive(free.index((before + STAGES) % STAGES), pred=before >= 0)
    return sums, weights, DECODE(held, xs.dtype, OPERAND, FORM)
