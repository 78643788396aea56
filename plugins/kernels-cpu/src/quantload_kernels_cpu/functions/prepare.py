"""`x` as integers, in the order in which a layout has its codes."""

from __future__ import annotations

from typing import Any

from quantload_kernels_cpu.emit.dot import dot
from quantload_kernels_cpu.emit.function import Writer
from quantload_kernels_cpu.emit.value import F32, I8, I32, Value, joined, vector
from quantload_kernels_cpu.functions.record import COMMON, ITEM, Record


def write_prepare(module: Any, name: str, record: Record, dtype: str, tail: int, vnni: bool) -> Any:
    """The function that fills the records of some rows of `x`.

    Args:
        module: where it goes.
        name: its name.
        record: what it fills.
        dtype: of `x`.
        tail: columns of the last step; 0 where it is as long as the others.
        vnni: see `dot`.
    """
    writer = Writer(module, name, COMMON + record.layout.arguments)
    whole = writer["steps"] - (1 if tail else 0)
    with writer.loop(writer.number(0), writer["count"]) as row:
        source = writer["x"] + row * writer["x_row_bytes"]
        target = writer["records"] + row * writer["steps"] * record.nbytes
        width = record.layout.columns * ITEM[dtype]
        with writer.loop(writer.number(0), whole) as step:
            parts = _loaded(writer, dtype, source + step * width, record.layout.columns)
            _fill(writer, record, parts, target + step * record.nbytes, vnni)
        if tail:
            parts = _tail(writer, dtype, source + whole * width, record.layout.columns, tail)
            _fill(writer, record, parts, target + whole * record.nbytes, vnni)
    return writer.finish()


def _loaded(writer: Writer, dtype: str, address: Value, columns: int) -> list[Value]:
    step = 16 * ITEM[dtype]
    return [writer.load_floats(dtype, address + i * step, 16) for i in range(columns // 16)]


def _tail(writer: Writer, dtype: str, address: Value, columns: int, tail: int) -> list[Value]:
    """The last columns, with zeros behind them."""
    room = writer.buffer(columns * 4)
    for index in range(columns // 16):
        writer.store(writer.floats(0.0, 16), room, index * 64)
    with writer.loop(writer.number(0), writer.number(tail)) as column:
        one = writer.load_floats(dtype, address + column * ITEM[dtype], 1)
        writer.store(one, room + column * 4)
    return _loaded(writer, "float32", room, columns)


def _fill(writer: Writer, record: Record, parts: list[Value], target: Value, vnni: bool) -> None:
    layout = record.layout
    top = parts[0].absolute().seen_as(vector(I32, 16))
    for part in parts[1:]:
        other = part.absolute().seen_as(vector(I32, 16))
        top = top._call("llvm.umax.v16i32", top.type, other)
    largest = top.seen_as(vector(F32, 16)).largest()
    inverse = writer.where_zero(largest, largest, largest.constant(record.largest) / largest)
    factor = largest * (1.0 / record.largest)
    spread = inverse.spread(16)
    integers = [(part * spread).rounded() for part in parts]
    limbs = _limbs(integers, record.limbs)
    for limb, digits in enumerate(limbs):
        for piece, columns in enumerate(layout.pieces):
            writer.store(digits.shuffled(columns), target, record.limb(piece, limb))
    if layout.zero:
        _zeros(writer, record, limbs, target, vnni)
    if layout.minima_count:
        sums = _sums(integers, layout.minimum_columns)
        for index, total in enumerate(sums):
            writer.store(total.to_float() * factor, target, record.sums + 4 * index)
    writer.store(factor, target, record.factor)


def _limbs(integers: list[Value], count: int) -> list[Value]:
    """Digits of numbers, int8 `[columns]` for each place, the highest first."""
    places: list[list[Value]] = [[] for _ in range(count)]
    for integer in integers:
        rest = integer
        for place in range(count):
            shift = 8 * (count - 1 - place)
            digit = rest
            if shift:
                half = 0x808080 >> (24 - shift)  # so that what rests has digits of its own
                digit = (rest + half).signed_shift(shift)
                rest = rest - (digit << shift)
            places[place].append(digit.narrowed(I8))
    return [joined(place) for place in places]


def _zeros(writer: Writer, record: Record, limbs: list[Value], target: Value, vnni: bool) -> None:
    layout = record.layout
    nothing = Value(writer.builder, vector(I32, 16)(None))
    for number, members in enumerate(layout.sets):
        for limb, digits in enumerate(limbs):
            sums = nothing
            for piece in members:
                part = digits.shuffled(layout.pieces[piece])
                sums = dot(sums, part.constant(1), part, vnni)
            writer.store(sums * -layout.zero, target, record.zeros(number, limb))


def _sums(integers: list[Value], columns: int) -> list[Value]:
    """Sums of runs of columns, int32; `columns` is a multiple of 16."""
    each = columns // 16
    found = []
    for start in range(0, len(integers), each):
        total = integers[start]
        for part in integers[start + 1 : start + each]:
            total = total + part
        found.append(total.total())
    return found
