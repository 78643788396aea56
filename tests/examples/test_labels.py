"""The labels of the demo's plot: each is plainly that of its own dot, however crowded."""

from __future__ import annotations

import math
import random

import pytest
from _labels import Box, place

FRAME = Box(0, 0, 500, 300)


def dots_of(seed: int) -> list[tuple[float, float]]:
    """Twelve dots: a knot of five that nearly touch, a row on a line, some by themselves."""
    chance = random.Random(seed)
    knot = [(150 + chance.uniform(-9, 9), 120 + chance.uniform(-9, 9)) for _ in range(5)]
    row = [(300 + 7 * k, 40 + chance.uniform(-2, 2)) for k in range(3)]
    alone = [(chance.uniform(60, 440), chance.uniform(180, 280)) for _ in range(4)]
    return knot + row + alone


@pytest.mark.parametrize("seed", range(2))
def test_no_label_covers_another_or_a_dot_and_each_is_plainly_its_own_dots(seed: int) -> None:
    dots = dots_of(seed)
    found = place(dots, [(50.0, 11.0)] * len(dots), FRAME, line=40)
    for i, mine in enumerate(found):
        box = mine.box
        assert FRAME.x0 <= box.x0 < box.x1 <= FRAME.x1
        assert FRAME.y0 <= box.y0 < box.y1 <= FRAME.y1
        assert not any(box.overlaps(other.box) for other in found[i + 1 :])
        assert min(box.distance(dot) for dot in dots) > 4
        own = box.distance(mine.dot)
        assert mine.dot == dots[i]
        assert mine.leader or own == min(box.distance(dot) for dot in dots)
        assert math.isclose(math.dist(*mine.line), own)


def test_a_dot_by_itself_has_its_label_beside_it() -> None:
    (found,) = place([(100.0, 100.0)], [(50.0, 11.0)], FRAME)
    assert not found.leader
    assert found.box.x0 == 107


def test_near_the_edge_the_label_is_on_the_other_side() -> None:
    (found,) = place([(495.0, 100.0)], [(50.0, 11.0)], FRAME)
    assert found.box.x1 < 495
