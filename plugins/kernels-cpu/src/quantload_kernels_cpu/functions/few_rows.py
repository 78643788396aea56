"""The product for rows of `x`: each byte of the weight comes from memory once for all of them."""

from __future__ import annotations

from typing import Any

from quantload_kernels_cpu.emit.dot import dot
from quantload_kernels_cpu.emit.function import Variable, Writer
from quantload_kernels_cpu.emit.value import F32, I8, I32, Value, vector
from quantload_kernels_cpu.functions.record import COMMON, ITEM, Record
from quantload_kernels_cpu.layouts.base import Layout, Step

AHEAD = 2048
"""Bytes by which a weight is asked for before it is used.

A row is short, and where it ends the processor's own prefetching begins anew. With 1024 or
3072, for none of ten layouts and 1 to 8 rows of `x` was a product clearly quicker.
"""


def write_few_rows(
    module: Any, name: str, record: Record, dtype: str, tail: int, vnni: bool, count: int
) -> Any:
    """The function that multiplies rows of `x`, prepared as records, `count` at a time.

    A row that is not there, of either, is the last one once more.

    Args:
        module: where it goes.
        name: its name.
        record: how `x` was prepared.
        dtype: of the output `[count, rows]`.
        tail: columns of the last step; 0 where it is as long as the others.
        vnni: see `dot`.
        count: rows of `x`.
    """
    layout = record.layout
    writer = Writer(module, name, COMMON + layout.arguments)
    tile = _tile(layout, count, vnni)
    with writer.shared_run(writer["counter"], writer["rows"], writer["chunk"]) as (first, last):
        # Each row of a tile from another place: as many streams, which are long enough for the
        # processor to see that they are.
        span = (last - first + (tile - 1)) // tile
        with (
            writer.loop(writer.number(0), writer["count"], count) as start,
            writer.loop(first, first + span) as row,
        ):
            own = [row, *(writer.smaller(row + span * i, last - 1) for i in range(1, tile))]
            ends = writer["count"] - 1
            inputs = [start, *(writer.smaller(start + i, ends) for i in range(1, count))]
            _write_tile(writer, record, dtype, tail, vnni, own, inputs)
    return writer.finish()


def _tile(layout: Layout, count: int, vnni: bool) -> int:
    """Rows of the weight that are multiplied together: what is read of `x` serves them all.

    Their codes and sums have to fit the 32 registers there are; AVX2 has 16, of half the width.
    """
    if count == 1:
        return 4 if vnni else 1
    return 4 if len(layout.pieces) <= 2 else 2


def _write_tile(
    writer: Writer,
    record: Record,
    dtype: str,
    tail: int,
    vnni: bool,
    own: list[Value],
    inputs: list[Value],
) -> None:
    """The products of rows of the weight and rows of `x`, given by their numbers."""
    layout = record.layout
    stride = writer["steps"] * record.nbytes
    sources = [writer["records"] + stride * index for index in inputs]
    where = [layout.row(writer, row) for row in own]
    sums = [[writer.variable(writer.floats(0.0, 16)) for _ in inputs] for _ in own]
    lows: list[list[Variable]] = []
    if layout.minima_count:
        nothing = writer.floats(0.0, layout.minima_count)
        lows = [[writer.variable(nothing) for _ in inputs] for _ in own]
    whole = writer["steps"] - (1 if tail else 0)
    with writer.loop(writer.number(0), whole) as index:
        steps = [Step(writer, row, index, layout.columns) for row in where]
        _add_step(steps, record, sources, sums, lows, vnni)
    if tail:
        steps = [Step(writer, row, whole, tail) for row in where]
        _add_step(steps, record, sources, sums, lows, vnni)
    for i, row in enumerate(own):
        for j, index in enumerate(inputs):
            y = sums[i][j].value.total()
            if lows:
                low = lows[i][j].value
                y = y - (low.total() if low.lanes > 1 else low)
            place = writer["out"] + writer["out_row_bytes"] * index + row * ITEM[dtype]
            writer.store_floats(dtype, y, place)


def _add_step(
    steps: list[Step],
    record: Record,
    sources: list[Value],
    sums: list[list[Variable]],
    lows: list[list[Variable]],
    vnni: bool,
) -> None:
    """Add a step of some rows of the weight, multiplied with each row of `x`."""
    layout, writer, index = record.layout, steps[0].writer, steps[0].index
    for step in steps:
        if (stream := layout.stream(step)) is not None:
            writer.prefetch(stream[0] + AHEAD, stream[1])
    weights = [(layout.codes(step), layout.scales(step), layout.minima(step)) for step in steps]
    for j, rows in enumerate(sources):
        source = rows + index * record.nbytes
        factor = writer.load(F32, source, record.factor).spread(16)
        for number, members in enumerate(layout.sets):
            places: list[list[Value]] = [[] for _ in steps]
            for limb in range(record.limbs):
                start = Value(writer.builder, vector(I32, 16)(None))
                if layout.zero:
                    start = writer.load(vector(I32, 16), source, record.zeros(number, limb))
                parts = [start] * len(steps)
                for piece in members:
                    digits = writer.load(vector(I8, 64), source, record.limb(piece, limb))
                    parts = [
                        dot(part, codes[piece], digits, vnni)
                        for part, (codes, _, _) in zip(parts, weights, strict=True)
                    ]
                for found, part in zip(places, parts, strict=True):
                    found.append(part)
            for i, (_, scales, _) in enumerate(weights):
                scale = scales[number] * factor
                total = _together(places[i])
                sums[i][j].value = total.times_plus(scale, sums[i][j].value)
        for i, (_, _, minima) in enumerate(weights):
            if minima is not None:
                totals = writer.load(minima.type, source, record.sums)
                lows[i][j].value = minima.times_plus(totals, lows[i][j].value)


def _together(places: list[Value]) -> Value:
    """float32 of sums of two or three limbs, the highest first."""
    found = ((places[-2] << 8) + places[-1]).to_float()
    if len(places) == 2:
        return found
    return places[0].to_float().times_plus(found.constant(65536.0), found)
