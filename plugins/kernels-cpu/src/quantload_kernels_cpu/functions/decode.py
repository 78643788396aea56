"""Rows of a weight as floats, for products with many rows of `x` and for gradients."""

from __future__ import annotations

from typing import Any

from quantload_kernels_cpu.emit.function import Writer
from quantload_kernels_cpu.emit.value import I32, Value, joined
from quantload_kernels_cpu.functions.record import COMMON, ITEM
from quantload_kernels_cpu.layouts.base import PIECE, Layout, Step

_RUN = 16


def write_decode(module: Any, name: str, layout: Layout, dtype: str, tail: int) -> Any:
    """The function that decodes `rows` rows from `first` on, in the order of the columns.

    Args:
        module: where it goes.
        name: its name.
        layout: of the weight.
        dtype: of the numbers.
        tail: columns of the last step; 0 where it is as long as the others.
    """
    writer = Writer(module, name, COMMON + layout.arguments)
    whole = writer["steps"] - (1 if tail else 0)
    with writer.shared_loop(writer["counter"], writer["rows"], writer["chunk"]) as index:
        where = layout.row(writer, writer["first"] + index)
        target = writer["out"] + index * writer["out_row_bytes"]
        with writer.loop(writer.number(0), whole) as number:
            _write_step(Step(writer, where, number, layout.columns), layout, dtype, target)
        if tail:
            _write_step(Step(writer, where, whole, tail), layout, dtype, target)
    return writer.finish()


def _write_step(step: Step, layout: Layout, dtype: str, target: Value) -> None:
    writer = step.writer
    codes, scales = joined(layout.codes(step)), joined(layout.scales(step))
    minima = layout.minima(step)
    code_at, scale_at = _places(layout)
    start = target + step.index * (layout.columns * ITEM[dtype])
    for first in range(0, step.columns, _RUN):
        run = range(first, min(first + _RUN, layout.columns))
        integers = codes.shuffled([code_at[column] for column in run]).widened(I32)
        value = (integers - layout.zero).to_float()
        scale = scales.shuffled([scale_at[column] for column in run])
        if minima is None:
            value = value * scale
        elif minima.lanes == 1:
            value = value.times_plus(scale, minima.spread(_RUN) * -1.0)
        else:
            low = minima.shuffled([column // layout.minimum_columns for column in run])
            value = value.times_plus(scale, low * -1.0)
        left = step.columns - first
        if left < _RUN:
            value = value.shuffled(range(left))
        writer.store_floats(dtype, value, start + first * ITEM[dtype])


def _places(layout: Layout) -> tuple[dict[int, int], dict[int, int]]:
    """Where the code and the scale of each column stand, with all pieces or sets in a row."""
    set_of = {piece: number for number, pieces in enumerate(layout.sets) for piece in pieces}
    code_at, scale_at = {}, {}
    for piece, columns in enumerate(layout.pieces):
        for place, column in enumerate(columns):
            code_at[column] = piece * PIECE + place
            scale_at[column] = set_of[piece] * 16 + place // 4
    return code_at, scale_at
