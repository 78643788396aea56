from __future__ import annotations

import pytest

from quantload_kernels_triton import plans
from quantload_kernels_triton.geometry import Geometry


def test_the_rest_alone_is_split_and_every_step_is_made():
    pytest.importorskip("triton")
    from quantload_kernels_triton.splitting import PROCESSORS, split_of

    split = split_of((256, 128), (512, 28672), 128, 2, True)
    assert split.whole % PROCESSORS == 0
    assert split.whole + split.rest == 2 * 224
    assert split.shares - split.whole <= PROCESSORS
    assert split.each * (split.parts - 1) < 128 <= split.each * split.parts
    whole = split_of((256, 128), (512, 28672), 128, 1, True)
    assert (whole.shares, whole.rest) == (448, 0)


@pytest.mark.parametrize(
    ("rows", "shape", "parts"),
    [
        (512, (4096, 4096), 1),  # as many tiles as are listed
        (512, (1024, 4096), 4),  # a quarter
        (512, (1024, 512), 1),  # too short for parts
        (512, (8192, 4096), 1),  # 256 tiles, nearly two rounds
        (512, (6144, 4096), 2),  # 192 tiles, 60 of them left
        (512, (4224, 4096), 1),  # a round, exactly
    ],
)
def test_tiles_are_split_where_processors_would_wait(rows, shape, parts):
    plan = plans.Plan("warpgroups", rows=128)
    found = plans.spread(plan, (512, 4096), rows, Geometry(4, *shape))
    assert found.parts == parts
    assert found == plan or found.rest
