"""The product for a few rows of `x`: each byte of the weight is read once for all of them."""

from __future__ import annotations

from typing import Any

from quantload_kernels_cpu.emit.dot import dot
from quantload_kernels_cpu.emit.function import Variable, Writer
from quantload_kernels_cpu.emit.value import F32, I8, I32, Value, vector
from quantload_kernels_cpu.functions.record import COMMON, ITEM, Record
from quantload_kernels_cpu.layouts.base import Step


def write_few_rows(
    module: Any, name: str, record: Record, dtype: str, tail: int, vnni: bool, count: int
) -> Any:
    """The function that multiplies `count` rows of `x`, prepared as records.

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
    whole = writer["steps"] - (1 if tail else 0)
    stride = writer["steps"] * record.nbytes
    inputs = [writer["records"] + stride * index for index in range(count)]
    with writer.shared_loop(writer["counter"], writer["rows"], writer["chunk"]) as row:
        where = layout.row(writer, row)
        sums = [writer.variable(writer.floats(0.0, 16)) for _ in range(count)]
        lows: list[Variable] = []
        if layout.minima_count:
            nothing = writer.floats(0.0, layout.minima_count)
            lows = [writer.variable(nothing) for _ in range(count)]
        with writer.loop(writer.number(0), whole) as index:
            step = Step(writer, where, index, layout.columns)
            _add_step(step, record, inputs, sums, lows, vnni)
        if tail:
            _add_step(Step(writer, where, whole, tail), record, inputs, sums, lows, vnni)
        for number, total in enumerate(sums):
            y = total.value.total()
            if lows:
                low = lows[number].value
                y = y - (low.total() if low.lanes > 1 else low)
            place = writer["out"] + writer["out_row_bytes"] * number + row * ITEM[dtype]
            writer.store_floats(dtype, y, place)
    return writer.finish()


def _add_step(
    step: Step,
    record: Record,
    inputs: list[Value],
    sums: list[Variable],
    lows: list[Variable],
    vnni: bool,
) -> None:
    layout, writer = record.layout, step.writer
    codes, scales, minima = layout.codes(step), layout.scales(step), layout.minima(step)
    for number, rows in enumerate(inputs):
        source = rows + step.index * record.nbytes
        factor = writer.load(F32, source, record.factor).spread(16)
        for index, members in enumerate(layout.sets):
            places = []
            for limb in range(record.limbs):
                if layout.zero:
                    part = writer.load(vector(I32, 16), source, record.zeros(index, limb))
                else:
                    part = Value(writer.builder, vector(I32, 16)(None))
                for piece in members:
                    digits = writer.load(vector(I8, 64), source, record.limb(piece, limb))
                    part = dot(part, codes[piece], digits, vnni)
                places.append(part)
            found = ((places[-2] << 8) + places[-1]).to_float()
            if record.limbs == 3:
                found = places[0].to_float().times_plus(found.constant(65536.0), found)
            scale = scales[index] * factor
            sums[number].value = found.times_plus(scale, sums[number].value)
        if minima is not None:
            count = layout.minima_count
            kind = F32 if count == 1 else vector(F32, count)
            totals = writer.load(kind, source, record.sums)
            lows[number].value = minima.times_plus(totals, lows[number].value)
