"""Bars of what a model weighs, one a way of loading it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

INK, FAINT, PACKED, FLOAT = "#222222", "#b8b8b8", "#1f6fb4", "#c9d8e6"


def footprints(rows: Mapping[str, tuple[float, float]], title: str, path: Path) -> None:
    """Write the chart.

    Args:
        rows: label -> megabytes of packed weights, and of everything else.
        title: of what model.
        path: the PNG to write.
    """
    labels = list(rows)[::-1]
    packed = [rows[label][0] for label in labels]
    rest = [rows[label][1] for label in labels]
    height = 1.4 + 0.42 * len(labels)
    figure, axes = plt.subplots(figsize=(8, height), dpi=160, layout="constrained")
    axes.barh(labels, rest, color=FLOAT, label="float")
    axes.barh(labels, packed, left=rest, color=PACKED, label="packed")
    whole = max(one + other for one, other in rows.values())
    for label, one, other in zip(labels, packed, rest, strict=True):
        axes.text(one + other + whole * 0.01, label, f"{one + other:.2f}", va="center", color=INK)
    axes.set_xlim(0, whole * 1.1)
    axes.set_xlabel("weights in memory, MB", color=INK)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=INK, length=0)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path)
    plt.close(figure)
