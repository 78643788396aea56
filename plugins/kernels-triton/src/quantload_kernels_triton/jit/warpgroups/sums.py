"""Where sums go: to the program that adds up a tile, and to y."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from quantload_kernels_triton.jit.warpgroups.ring import barrier


@gluon.jit
def gather(sums, gathered, number, split, part, BLOCK: gl.constexpr, BLOCKS: gl.constexpr):
    """Sums `[64, ROWS]` of block `BLOCK` of a tile of `BLOCKS`, with those of the other parts.

    Each block belongs to one of the parts, which waits for the others; these do not wait. The
    shares of a tile follow each other, so where one of them is made, the others are or will be.

    Args:
        sums: those of this part.
        gathered: `(room, flags, mark)`: float32, where sums of all shares behind the `whole`
            ones have room; int64, a flag for each block of those, which is not `mark`; and what
            it becomes when the block is there. Afterwards it is 0, so that a captured launch
            finds what it needs.
        number: of the share.
        split: see `share_of`.
        part: which one of the tile this is.
        BLOCK: the block.
        BLOCKS: how many there are in a tile.

    Returns:
        the sums, and whether they are complete and belong to this part.
    """
    room, flags, mark = gathered
    across, whole, parts, steps_each = split
    SIZE: gl.constexpr = sums.shape[0] * sums.shape[1]
    down = gl.arange(0, sums.shape[0], gl.SliceLayout(1, sums.type.layout))
    beside = gl.arange(0, sums.shape[1], gl.SliceLayout(0, sums.type.layout))
    place = gl.expand_dims(down * sums.shape[1], 1) + gl.expand_dims(beside, 0)
    mine = number - whole
    own = BLOCK % parts == part
    if own:
        for other in range(parts):
            if other != part:
                there = (mine - part + other) * BLOCKS + BLOCK
                while gl.atomic_add(flags + there, mark * 0, sem="acquire") != mark:
                    pass
                sums += gl.load(room + there.to(gl.int64) * SIZE + place)
                gl.atomic_xchg(flags + there, mark * 0, sem="relaxed")
    else:
        here = mine * BLOCKS + BLOCK
        gl.store(room + here.to(gl.int64) * SIZE + place, sums)
        barrier()
        gl.atomic_xchg(flags + here, mark, sem="release")
    return sums, own


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
