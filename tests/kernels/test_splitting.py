from __future__ import annotations

import pytest
import torch

from quantload_kernels_triton import plans
from quantload_kernels_triton.geometry import Geometry


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize(
    ("shape", "tile"), [((300, 500), (128, 192)), ((130, 70), (64, 64)), ((64, 64), (64, 128))]
)
def test_parts_add_up_to_the_tiles_they_are_of(shape, tile, rest, monkeypatch):
    pytest.importorskip("triton")
    from quantload_kernels_triton import splitting

    monkeypatch.setattr(splitting, "PROCESSORS", 2)
    split = splitting.split_of(tile, shape, 40, 3, rest)
    parts = torch.randn(split.rest, split.parts, split.rows * split.tall)
    y = torch.full(shape, torch.nan)
    padded = torch.full((split.across * tile[0], -(-shape[1] // tile[1]) * tile[1]), torch.nan)
    for number, values in enumerate(parts.sum(1)):
        beside, down = (split.whole + number) % split.across, (split.whole + number) // split.across
        rows, columns = beside * tile[0], down * tile[1]
        padded[rows : rows + tile[0], columns : columns + tile[1]] = values.view(tile)
    if split.rest:
        assert split.add(split.room(y).copy_(parts), y) is y
    torch.testing.assert_close(y, padded[: shape[0], : shape[1]], equal_nan=True)
    made = y.isfinite().sum().item()
    assert (made == y.numel()) is (split.whole == 0)


def test_the_rest_alone_is_split_and_every_step_is_made():
    pytest.importorskip("triton")
    from quantload_kernels_triton.splitting import PROCESSORS, split_of

    split = split_of((256, 128), (512, 28672), 128, 2, True)
    assert split.whole % PROCESSORS == 0
    assert split.whole + split.rest == 2 * 224
    assert split.programs - split.whole <= PROCESSORS
    assert split.each * (split.parts - 1) < 128 <= split.each * split.parts
    whole = split_of((256, 128), (512, 28672), 128, 1, True)
    assert (whole.programs, whole.rest) == (448, 0)


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
