from __future__ import annotations

from quantload_kernels_triton.estimates import Tile, estimate, quickest
from quantload_kernels_triton.splitting import PROCESSORS, split_of


def test_the_rest_alone_is_split_and_every_step_is_made():
    split = split_of((256, 128), (512, 28672), 128, 2, True)
    assert split.whole % PROCESSORS == 0
    assert split.whole + split.rest == 2 * 224
    assert split.shares - split.whole <= PROCESSORS
    assert split.each * (split.parts - 1) < 128 <= split.each * split.parts
    whole = split_of((256, 128), (512, 28672), 128, 1, True)
    assert (whole.shares, whole.rest) == (448, 0)


def test_an_estimate_counts_tiles_steps_and_parts():
    tile = Tile(2, 1, 256, 4, 3.0, 1.0, 10.0)
    assert estimate(tile, 256, 128, 640).us == 3 + 10
    assert estimate(tile, 256, 128 * PROCESSORS, 640).us == 3 + 10
    assert estimate(tile, 256, 128 * PROCESSORS + 1, 640).us == 2 * (3 + 10)
    assert estimate(tile, 256, 128, 640, 2).us == 3 + 5 + 10
    assert estimate(tile, 256, 128 * (PROCESSORS + 1), 640, 2, True).us == 2 * 3 + 10 + 5 + 10


def test_tiles_are_split_where_processors_would_wait():
    tile = Tile(2, 1, 256, 4, 1.0, 1.0, 2.0)

    def parts(tiles, steps):
        found = quickest([tile], 256, 128 * tiles, 64 * steps)
        return found.parts, found.rest

    assert parts(PROCESSORS, 100) == (1, False)
    assert parts(PROCESSORS // 2, 100)[0] == 2
    assert parts(PROCESSORS + 10, 100)[1]
    assert parts(10, 4) == (1, False)
