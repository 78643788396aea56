"""What a program does, a whole tile of the product or a part of one, and where that goes."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def share_of(across, whole, rest, steps, steps_each, SPLIT: gl.constexpr):
    """The tile of a program, `(block of activations, block of the weight)`, and its steps.

    The first `whole` programs make a tile each, `across` of which lie beside each other. With
    `SPLIT`, `rest` tiles follow, and each program makes a run of `steps_each` steps of one.

    Returns:
        the two blocks, the first step and how many there are.
    """
    tile = gl.program_id(0)
    begin = tile * 0
    count = steps + begin
    if SPLIT:
        behind = tile - whole
        if behind >= 0:
            tile = whole + behind % rest
            begin = behind // rest * steps_each
            count = gl.minimum(steps_each, steps - begin)
    return tile % across, tile // across, begin, count


@gluon.jit
def write(sums, out, row, token, ABOVE: gl.constexpr, TALL: gl.constexpr, SPLIT: gl.constexpr):
    """Sums `[rows of the weight, activations]` of a program, as rows of y or of a part.

    Args:
        sums: those of `TALL` rows of the weight, or some of them.
        out: `(y, parts, rows, out_rows, whole)`; see `engine.run`.
        row: the first of the rows of the weight.
        token: the first of the activations.
        ABOVE: how many rows of the weight the program has above these.
        TALL: see `sums`.
        SPLIT: see `share_of`.
    """
    y, parts, rows, out_rows, whole = out
    if SPLIT:
        behind = gl.program_id(0) - whole
        if behind >= 0:
            start = parts + behind.to(gl.int64) * (sums.shape[1] * TALL)
            put(sums, start, ABOVE, 0, TALL, sums.shape[1], TALL)
        else:
            put(sums, y, row, token, out_rows, rows, out_rows)
    else:
        put(sums, y, row, token, out_rows, rows, out_rows)


@gluon.jit
def put(sums, y, row, token, out_rows, rows, stride):
    """Sums as `y[token, row]` on, where there are so many of both."""
    DOWN: gl.constexpr = gl.BlockedLayout([8, 1], [8, 4], [1, gl.num_warps()], [0, 1])
    values = gl.convert_layout(sums.to(y.dtype.element_ty), DOWN)
    row += gl.arange(0, sums.shape[0], gl.SliceLayout(1, DOWN))
    token += gl.arange(0, sums.shape[1], gl.SliceLayout(0, DOWN))
    where = y + gl.expand_dims(token.to(gl.int64) * stride, 0) + gl.expand_dims(row, 1)
    inside = gl.expand_dims(token < rows, 0) & gl.expand_dims(row < out_rows, 1)
    gl.store(where, values, mask=inside)
