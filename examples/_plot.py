"""Perplexity against bytes, every point labelled where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from _labels import Box, place
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

INK, FAINT, ACCENT, BASE = "#222222", "#b8b8b8", "#1f6fb4", "#c2571a"
_LEADER = "#6f6f6f"
# Ticks within a decade: some where the values span much, more where they span little.
_TICKS = {False: (1, 1.5, 2, 3, 5, 7), True: (1, 1.1, 1.2, 1.4, 1.6, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)}


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
    axes.scatter(
        list(x.values()),
        list(y.values()),
        c=colors,
        s=42,
        zorder=3,
        edgecolors="white",
        linewidths=0.8,
    )
    axes.set_xlim(min(x.values()) * 0.7, max(x.values()) * 1.12)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=_TICKS[max(y.values()) < 2 * min(y.values())]))
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
    """Write the labels where `place` puts them, with a line to the dots they are far from."""
    points_per_pixel = 72 / axes.figure.dpi  # of a point, the unit of the places
    renderer = axes.figure.canvas.get_renderer()
    style = {"fontsize": 9, "va": "bottom", "ha": "left"}

    def scaled(x: float, y: float) -> tuple[float, float]:
        return float(x) * points_per_pixel, float(y) * points_per_pixel

    notes = {
        name: axes.annotate(name, points[name], color=colors[name], **style) for name in points
    }
    extents = [note.get_window_extent(renderer) for note in notes.values()]
    sizes = [scaled(extent.width, extent.height) for extent in extents]
    dots = [scaled(*axes.transData.transform(point)) for point in points.values()]
    frame = Box(*scaled(axes.bbox.x0, axes.bbox.y0), *scaled(axes.bbox.x1, axes.bbox.y1))
    height = scaled(*axes.transData.transform((0, line)))[1]
    for note, found in zip(notes.values(), place(dots, sizes, frame, height), strict=True):
        note.xyann = found.box.x0 - found.dot[0], found.box.y0 - found.dot[1]
        note.anncoords = "offset points"
        if found.leader:
            end = found.line[1]
            axes.annotate(
                "",
                note.xy,
                xytext=(end[0] - found.dot[0], end[1] - found.dot[1]),
                textcoords="offset points",
                zorder=4,  # over the dots: where they overlap, it shows whose the label is
                arrowprops={
                    "arrowstyle": "-",
                    "color": _LEADER,
                    "linewidth": 0.8,
                    "shrinkA": 0,
                    "shrinkB": 0,
                },
            )
