"""Where the labels of crowded points go: one of many places each, chosen for all together."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]

# Directions in the order in which they are liked, and distances from the dot to the box.
_DIRECTIONS = (0, 180, 90, 270, 45, -45, 135, -135, 22, -22, 158, -158)
_NEAR, _FAR = 7.0, (20.0, 36.0, 56.0)
_STARTS, _SWEEPS = 8, 8  # each start may end in another arrangement; the best is taken


@dataclass(frozen=True)
class Box:
    """A rectangle; all lengths in one unit, y upwards."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other: Box, gap: float = 0) -> bool:
        """Whether the two come nearer than `gap`."""
        across = self.x0 - gap < other.x1 and other.x0 - gap < self.x1
        return across and self.y0 - gap < other.y1 and other.y0 - gap < self.y1

    def nearest(self, point: Point) -> Point:
        """The point of the rectangle that is nearest to `point`."""
        return min(max(point[0], self.x0), self.x1), min(max(point[1], self.y0), self.y1)

    def distance(self, point: Point) -> float:
        """From `point` to the rectangle; 0 inside."""
        return math.dist(point, self.nearest(point))


@dataclass(frozen=True)
class Place:
    """A label's box, and whether a line leads from its dot to it."""

    box: Box
    dot: Point
    leader: bool

    @property
    def line(self) -> tuple[Point, Point]:
        """From the dot to the box."""
        return self.dot, self.box.nearest(self.dot)


def place(
    dots: Sequence[Point], sizes: Sequence[Point], frame: Box, line: float | None = None
) -> list[Place]:
    """A place for each label: over no dot and no other label, and plainly its own dot's.

    Args:
        dots: of the labels, in the order of the labels.
        sizes: width and height of each label.
        frame: labels stay inside.
        line: height of a horizontal line that labels rather do not cover.
    """
    choices = [_choices(dot, size) for dot, size in zip(dots, sizes, strict=True)]

    def costs(i: int, chosen: list[Place]) -> list[float]:
        others = [chosen[j] for j in range(len(dots)) if j != i]
        foreign = [dots[j] for j in range(len(dots)) if j != i]
        own = enumerate(choices[i])
        return [_cost(p, others, foreign, frame, line) + 0.01 * k for k, p in own]

    best: tuple[float, list[Place]] | None = None
    for start in range(_STARTS):
        chance = random.Random(start)
        order = list(range(len(dots)))
        chance.shuffle(order)
        chosen = [own[chance.randrange(len(own)) if start else 0] for own in choices]
        for _ in range(_SWEEPS):
            before = list(chosen)
            for i in order:
                found = costs(i, chosen)
                chosen[i] = choices[i][found.index(min(found))]
            if chosen == before:
                break
        total = sum(costs(i, chosen)[choices[i].index(chosen[i])] for i in order)
        if best is None or total < best[0]:
            best = total, chosen
    return best[1] if best else []


def _choices(dot: Point, size: Point) -> list[Place]:
    return [
        Place(_beside(dot, size, math.radians(angle), away), dot, away != _NEAR)
        for away in (_NEAR, *_FAR)
        for angle in _DIRECTIONS
    ]


def _beside(dot: Point, size: Point, angle: float, away: float) -> Box:
    """A box whose nearest edge or corner is `away` from the dot, in a direction."""
    dx, dy = math.cos(angle), math.sin(angle)
    x0 = dot[0] + away * dx - size[0] * _share(dx)
    y0 = dot[1] + away * dy - size[1] * _share(dy)
    return Box(x0, y0, x0 + size[0], y0 + size[1])


def _share(part: float) -> float:
    """How much of the box is before the point it is hung at: all, half or nothing."""
    return 0.5 if abs(part) < 0.4 else float(part < 0)


def _cost(
    mine: Place, others: Sequence[Place], foreign: Sequence[Point], frame: Box, line: float | None
) -> float:
    box = mine.box
    cost = 3.0 * mine.leader + 0.02 * box.distance(mine.dot)
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    cost += 0 if inside else 200
    cost += 100 * sum(box.overlaps(other.box, 2) for other in others)
    cost += 100 * sum(box.distance(dot) < 6 for dot in foreign)
    own = box.distance(mine.dot)
    nearer = [box.distance(dot) < own + 5 for dot in foreign]
    cost += (4 if mine.leader else 30) * sum(nearer)
    if line is not None and box.y0 - 2 < line < box.y1 + 2:
        cost += 8
    if mine.leader:
        cost += 90 * sum(_passes(mine.line, dot) for dot in foreign)
        cost += 60 * sum(_crosses(mine.line, other.box) for other in others)
    cost += 60 * sum(other.leader and _crosses(other.line, box) for other in others)
    both = [other for other in others if other.leader and mine.leader]
    return cost + 40 * sum(_cross(mine.line, other.line) for other in both)


def _passes(line: tuple[Point, Point], dot: Point) -> bool:
    """Whether the line comes near another dot, and nearer than where it begins."""
    (ax, ay), (bx, by) = line
    dx, dy = bx - ax, by - ay
    along = ((dot[0] - ax) * dx + (dot[1] - ay) * dy) / max(dx * dx + dy * dy, 1e-9)
    along = min(max(along, 0.0), 1.0)
    nearest = math.dist((ax + along * dx, ay + along * dy), dot)
    return nearest < min(7, math.dist(line[0], dot) - 0.5)


def _crosses(line: tuple[Point, Point], box: Box) -> bool:
    return any(box.distance(point) < 1 for point in _along(line))


def _along(line: tuple[Point, Point], count: int = 8) -> list[Point]:
    (ax, ay), (bx, by) = line
    return [(ax + (bx - ax) * k / count, ay + (by - ay) * k / count) for k in range(count + 1)]


def _cross(one: tuple[Point, Point], other: tuple[Point, Point]) -> bool:
    """Whether two lines cross, by the sides on which the ends of each lie."""

    def side(a: Point, b: Point, c: Point) -> float:
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    (a, b), (c, d) = one, other
    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
