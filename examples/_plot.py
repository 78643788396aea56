"""Perplexity against bytes, every point labelled where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.text import Text
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

INK, FAINT, ACCENT, BASE = "#222222", "#b8b8b8", "#1f6fb4", "#c2571a"
_DOT = 12  # pixels that a label keeps away from the middle of a dot
# Places to try for a label, in points from its dot: beside it, at its corners, farther off.
_PLACES = [
    ((9, 0), "left", "center"),
    ((-9, 0), "right", "center"),
    ((0, 9), "center", "bottom"),
    ((0, -9), "center", "top"),
    ((8, 8), "left", "bottom"),
    ((8, -8), "left", "top"),
    ((-8, 8), "right", "bottom"),
    ((-8, -8), "right", "top"),
    *(((34, y), "left", "center") for y in (18, -18, 36, -36)),
    *(((-34, y), "right", "center") for y in (18, -18, 36, -36)),
]


def plot(rows: Mapping[str, Mapping[str, Any]], base: str, title: str, path: Path) -> None:
    """Write the plot.

    Args:
        rows: label -> `weights_mb` and `perplexity`.
        base: label of the float model, which the others are compared with.
        title: what was measured, in words.
        path: the PNG to write.
    """
    figure, axes = plt.subplots(figsize=(8, 5), dpi=160, layout="constrained")
    x = {label: row["weights_mb"] for label, row in rows.items()}
    y = {label: row["perplexity"] for label, row in rows.items()}
    axes.axhline(y[base], color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    colors = [BASE if label == base else ACCENT for label in rows]
    axes.scatter(list(x.values()), list(y.values()), c=colors, s=46, zorder=3)
    axes.set_xlim(min(x.values()) * 0.7, max(x.values()) * 1.12)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())
    low, high = min(y.values()), max(y.values())
    room = max(high / low, 1.02)
    axes.set_ylim(low / room**0.2, high * room**0.2)
    axes.set_xlabel("weights in memory, MB", color=INK)
    axes.set_ylabel("held-out perplexity (lower is better)", color=INK)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, length=3)
    axes.grid(color="#ececec", linewidth=0.8, zorder=0)
    figure.canvas.draw()
    points = {label: (x[label], y[label]) for label in rows}
    _label(axes, points, dict(zip(rows, colors, strict=True)), y[base])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _label(
    axes: Any,
    points: Mapping[str, tuple[float, float]],
    colors: Mapping[str, str],
    line: float,
) -> None:
    """Put each label at the first place where it covers no dot, no other label, not the line."""
    height = axes.transData.transform((0, line))[1]
    leader = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 6}
    renderer = axes.figure.canvas.get_renderer()
    dots = [axes.transData.transform(point) for point in points.values()]
    taken: list[Any] = []
    for name, (x, y) in sorted(points.items(), key=lambda item: -item[1][1]):
        style = {"fontsize": 9, "color": colors[name]}
        where = {"xytext": (0, 0), "textcoords": "offset points"}
        note = axes.annotate(name, (x, y), arrowprops=leader, **where, **style)

        def clashes(place: tuple[Any, str, str], note: Any = note) -> int:
            note.xyann, horizontal, vertical = place
            note.set(ha=horizontal, va=vertical)
            note.update_positions(renderer)
            box = Text.get_window_extent(note, renderer)  # without its leader
            outside = box.x0 < axes.bbox.x0 or box.x1 > axes.bbox.x1
            return int(
                4 * sum(box.overlaps(other) for other in taken)
                + 4 * sum(box.padded(_DOT).contains(*dot) for dot in dots)
                + (box.y0 < height < box.y1)
                + outside
            )

        clashes(min(_PLACES, key=clashes))  # the first of the best, set once more
        note.arrow_patch.set_visible(abs(note.xyann[0]) > 10)  # only where it is far off
        taken.append(Text.get_window_extent(note, renderer))
