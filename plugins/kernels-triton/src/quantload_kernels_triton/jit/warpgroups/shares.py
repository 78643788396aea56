"""The work of a product, in shares: whole tiles, or parts of one."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

WORK = ["shares", "across", "whole", "parts", "steps_each", "mark"]
"""Arguments by which a kernel is told of its shares; it is compiled for none of their values."""


@gluon.jit
def share_of(number, split, steps, SPLIT: gl.constexpr):
    """The tile of a share, `(block of activations, block of the weight)`, and its steps.

    `split` is `(across, whole, parts, steps_each)`. The first `whole` shares are a tile each,
    `across` of which lie beside each other. With `SPLIT`, each tile after those has `parts`
    shares, runs of `steps_each` steps.

    Returns:
        the two blocks, the part, its first step and how many there are.
    """
    across, whole, parts, steps_each = split
    tile = number
    part = number * 0
    begin = number * 0
    count = steps + begin
    if SPLIT:
        behind = number - whole
        if behind >= 0:
            tile = whole + behind // parts
            part = behind % parts
            begin = part * steps_each
            count = gl.minimum(steps_each, steps - begin)
    return tile % across, tile // across, part, begin, count
