"""Lanes' own data into the left operand of a warpgroup's product, in registers.

Layouts are explicit here, and nothing moves between threads: a lane loads the words, scales and
zero-points of the weights that it must hold. Four warps stand one below the other, 16 rows
each; names of dimensions are those of `jit.loads`.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from quantload_kernels_triton.jit.groups import multiply_asm

LANES = gl.constexpr(
    gl.BlockedLayout(
        [1, 1, 1, 1, 2, 2, 2], [1, 1, 8, 4, 1, 1, 1], [1, 4, 1, 1, 1, 1, 1], [6, 5, 4, 3, 2, 1, 0]
    )
)
"""Layout of words `[1, 4 W, 8 g, 4 t, 2 k8, 2 r8, 2 p]`."""
PAIRS = gl.constexpr(gl.BlockedLayout([1, 1], [1, 32], [1, 4], [1, 0]))
"""Layout of a value for each thread, `[1, 128]`."""


@gluon.jit
def words_at(words, tile, tiles, per_tile):
    """Where a lane's first eight words are, `[1, 4 W, 128]` in pairs.

    Args:
        words: pointer to int16 blocks of 256; see `geometry`.
        tile: the first of four tiles; the last that there is stands for those beyond.
        tiles: how many there are.
        per_tile: pairs of words from a tile to the next.
    """
    BLOCK: gl.constexpr = gl.BlockedLayout([1, 1, 4], [1, 1, 32], [1, 4, 1], [2, 1, 0])
    down = tile + gl.arange(0, 4, gl.SliceLayout(0, gl.SliceLayout(2, BLOCK)))
    down = gl.expand_dims(gl.expand_dims(gl.minimum(down, tiles - 1), 0), 2)
    pair = gl.arange(0, 128, gl.SliceLayout(0, gl.SliceLayout(1, BLOCK)))
    start = words.to(gl.pointer_type(gl.int32)) + gl.expand_dims(gl.expand_dims(pair, 0), 1)
    return start + down.to(gl.int64) * per_tile


@gluon.jit
def thread():
    """The number of each thread, `[1, 128]`."""
    return gl.expand_dims(gl.arange(0, 128, gl.SliceLayout(0, PAIRS)), 0)


@gluon.jit
def halves(pairs, KIND: gl.constexpr):
    """Two numbers of 16 bits in each int32, apart."""
    if gl.bfloat16 == KIND:
        first, second = gl.inline_asm_elementwise(
            "mov.b32 {$0, $1}, $2;",
            "=h,=h,r",
            [pairs],
            dtype=(gl.bfloat16, gl.bfloat16),
            is_pure=True,
            pack=1,
        )
    elif gl.float16 == KIND:
        first, second = gl.inline_asm_elementwise(
            "mov.b32 {$0, $1}, $2;",
            "=h,=h,r",
            [pairs],
            dtype=(gl.float16, gl.float16),
            is_pure=True,
            pack=1,
        )
    else:
        first, second = gl.inline_asm_elementwise(
            "mov.b32 {$0, $1}, $2;",
            "=h,=h,r",
            [pairs],
            dtype=(gl.int16, gl.int16),
            is_pure=True,
            pack=1,
        )
    return first, second


@gluon.jit
def of_words(pairs):
    """Pairs of words `[1, 4, 128]` as words, in `LANES`."""
    first, second = halves(pairs, gl.int16)
    words = gl.reshape(gl.join(first, second), (1, 4, 8, 4, 2, 2, 2))
    return gl.convert_layout(words, LANES, assert_trivial=True)


@gluon.jit
def of_rows(first, second, words):
    """A value of row `g` and one of row `g + 8`, `[1, 128]` each, for each of the words."""
    both = gl.reshape(gl.join(first, second), (1, 4, 8, 4, 1, 2, 1))
    both, words = gl.broadcast(gl.convert_layout(both, LANES), words)
    return both


@gluon.jit
def times(codes, coarse, fine, SPLIT: gl.constexpr):
    """`codes * coarse`, or with `SPLIT` `codes * (coarse + fine)`, rounded once."""
    BF16: gl.constexpr = coarse.dtype == gl.bfloat16
    if SPLIT:
        plane = gl.inline_asm_elementwise(
            multiply_asm(BF16, True),
            "=r,r,r,r",
            [codes, coarse, fine],
            dtype=coarse.dtype,
            is_pure=True,
            pack=2,
        )
    else:
        plane = gl.inline_asm_elementwise(
            multiply_asm(BF16, False),
            "=r,r,r",
            [codes, coarse],
            dtype=coarse.dtype,
            is_pure=True,
            pack=2,
        )
    return plane


@gluon.jit
def operand_of(plane, OPERAND: gl.constexpr):
    """A plane of 16 columns, in `LANES`, as an operand `[64, 16]`."""
    plane = gl.permute(plane, (0, 1, 5, 2, 4, 3, 6))  # R W r8 g k8 t p
    return gl.convert_layout(gl.reshape(plane, (64, 16)), OPERAND, assert_trivial=True)
