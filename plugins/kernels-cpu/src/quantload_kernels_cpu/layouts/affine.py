"""Group-wise integers of 2 to 8 bits, as `AffineWeight` keeps them.

A row is made of planes of bits, see `quantload.weights.affine.planes`. A step is as many
columns as fill 64 bytes of its widest plane, so that the codes of the piece `j` are those
of the columns `per_byte * byte + j`: one shift and one mask, and the four codes of a lane
stand for neighbouring columns, the same ones in all pieces. Narrower planes are spread
until they have the bits of the same columns in each byte.
"""

from __future__ import annotations

import math

from quantload.weights.affine.planes import BLOCK, PLANES
from quantload_kernels_cpu.affine_names import Kind, per_byte
from quantload_kernels_cpu.emit.function import Writer
from quantload_kernels_cpu.emit.value import I8, I16, I32, Value, joined, vector
from quantload_kernels_cpu.layouts.base import PIECE, Layout, Step, runs


class Affine(Layout):
    """Codes, scales and what shifts them, each `[rows, ...]` without gaps."""

    def __init__(self, name: str, kind: Kind) -> None:
        self.name = name
        self.kind, self.bits = kind, kind.bits
        self.zero = 1 << (self.bits - 1)
        self.shifted = bool(kind.shifts)
        self.widths = PLANES[self.bits]
        self.arguments = (
            "codes",
            "scales",
            *(("shifts",) if self.shifted else ()),
            "row_bytes",
            "groups",
            *(f"plane{number}" for number in range(1, len(self.widths))),
        )
        self.per = per = per_byte(self.bits)
        self.columns = max(128, PIECE * per)
        self.unit = math.gcd(kind.group, self.columns)
        self.units = self.columns // self.unit
        self.minimum_columns = self.unit if self.shifted else 0
        if per == 1:
            self.pieces = (runs(0), runs(PIECE))
            self.sets = ((0, 1),) if self.units == 1 else ((0,), (1,))
        else:
            self.pieces = tuple(
                tuple(per * byte + piece for byte in range(PIECE)) for piece in range(per)
            )
            self.sets = (tuple(range(per)),)

    def row(self, writer: Writer, row: Value) -> dict[str, Value]:
        """See `Layout.row`."""
        codes = writer["codes"] + row * writer["row_bytes"]
        found = {"plane0": codes, "group": row * writer["groups"]}
        for number in range(1, len(self.widths)):
            found[f"plane{number}"] = codes + writer[f"plane{number}"]
        return found

    # -- codes -------------------------------------------------------------------------

    def codes(self, step: Step) -> list[Value]:
        """See `Layout.codes`."""
        wide = self._plane(step, 0, self.columns * self.widths[0] // 8)
        if self.bits == 8:
            return [wide.shuffled(range(PIECE)), wide.shuffled(range(PIECE, 2 * PIECE))]
        pieces = [
            _field(wide, piece * self.widths[0], self.widths[0], 0) for piece in range(self.per)
        ]
        place = self.widths[0]
        for number, width in enumerate(self.widths[1:], 1):
            plane = _spread(self._plane(step, number, self.columns * width // 8))
            for piece in range(self.per):
                pieces[piece] |= _field(plane, piece * width, width, place)
            place += width
        return pieces

    def stream(self, step: Step) -> tuple[Value, int] | None:
        """See `Layout.stream`: the widest plane."""
        nbytes = self.columns * self.widths[0] // 8
        return step.row["plane0"] + step.index * nbytes, nbytes

    def _plane(self, step: Step, number: int, nbytes: int) -> Value:
        """The bytes of a plane for a step; those that are not there are 0."""
        start = step.row[f"plane{number}"] + step.index * nbytes
        there = -(-step.columns // BLOCK) * BLOCK * self.widths[number] // 8
        return _padded(step.writer.load(vector(I8, there), start), nbytes)

    # -- scales ------------------------------------------------------------------------

    def scales(self, step: Step) -> list[Value]:
        """See `Layout.scales`."""
        each = self._of_units(step, "scales", self.kind.scales)
        if each.lanes == 1:
            return [each.spread(16)]
        lane = self.columns // 16 // len(self.sets)
        return [
            each.shuffled([(16 * number + index) * lane // self.unit for index in range(16)])
            for number in range(len(self.sets))
        ]

    def minima(self, step: Step) -> Value | None:
        """See `Layout.minima`."""
        if not self.shifted:
            return None
        scales = self._of_units(step, "scales", self.kind.scales)
        shifts = self._of_units(step, "shifts", self.kind.shifts)
        if "int" in self.kind.shifts:
            return scales * (shifts - float(self.zero))
        # With a zero in the middle the sums stay small, and so do their errors.
        return scales.times_plus(scales.constant(float(self.zero)), shifts) * -1.0

    def _of_units(self, step: Step, name: str, dtype: str) -> Value:
        """float32 for each unit of the step, a scalar of one; 0 of those that are not there."""
        writer, there = step.writer, -(-step.columns // self.unit)
        if self.kind.group == 0:
            return _load(writer, writer[name], step.row["group"], dtype, 1)
        each = self.kind.group // self.unit  # units of a group
        if each == 1:
            first = step.row["group"] + step.index * self.units
            return _padded(_load(writer, writer[name], first, dtype, there), self.units)
        found = []
        for unit in range(there):
            group = (step.index * self.units + unit) // each
            found.append(_load(writer, writer[name], step.row["group"] + group, dtype, 1))
        if self.units == 1:
            return found[0]
        missing = self.units - there
        return joined([one.spread(1) for one in found + [found[0].constant(0.0)] * missing])


def _field(plane: Value, start: int, width: int, place: int) -> Value:
    """The bits from `start` on in each byte, moved to `place`."""
    mask = ((1 << width) - 1) << place
    if place >= start:
        return (plane << (place - start)) & mask if place > start else plane & mask
    return (plane >> (start - place)) & mask


def _spread(plane: Value) -> Value:
    """64 bytes whose low bits are those of a plane of fewer: of 8, 2 or 4 parts of each byte."""
    if plane.lanes == 2 * 16:
        wide = plane.widened(I16)
        return (wide | wide << 4).seen_as(vector(I8, PIECE))
    wide = plane.widened(I32)
    wide = wide | wide << 6
    return (wide | wide << 12).seen_as(vector(I8, PIECE))


def _load(writer: Writer, base: Value, index: Value, dtype: str, lanes: int) -> Value:
    """float32 of `lanes` neighbouring numbers of a tensor."""
    if dtype == "uint8" or dtype == "int16":
        kind, item = (I8, 1) if dtype == "uint8" else (I16, 2)
        raw = writer.load(kind if lanes == 1 else vector(kind, lanes), base + index * item)
        return (raw.widened(I32) if dtype == "uint8" else raw.widened_signed(I32)).to_float()
    return writer.load_floats(dtype, base + index * (4 if dtype == "float32" else 2), lanes)


def _padded(value: Value, lanes: int) -> Value:
    """With zeros behind."""
    if value.lanes == lanes:
        return value
    if value.lanes == 1 and value.type == value.element:
        value = value.spread(1)
    mask = [min(lane, value.lanes) for lane in range(lanes)]
    return value.shuffled(mask, value.constant(0.0 if value.floating else 0))
