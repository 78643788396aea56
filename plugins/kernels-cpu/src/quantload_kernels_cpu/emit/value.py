"""`Value`: a number or a vector in the code that is being written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
POINTER = I8.as_pointer()


def vector(element: Any, lanes: int) -> Any:
    """The type of a vector."""
    return ir.VectorType(element, lanes)


class Value:
    """A value of the function that `builder` writes; operators append instructions.

    The other operand of an operator may be a Python number, which is spread over all
    lanes. Integers are shifted to the right without their sign (`>>`).
    """

    def __init__(self, builder: Any, raw: Any) -> None:
        self.builder, self.raw = builder, raw

    @property
    def type(self) -> Any:
        """LLVM's type."""
        return self.raw.type

    @property
    def element(self) -> Any:
        """Type of a lane."""
        return self.type.element if isinstance(self.type, ir.VectorType) else self.type

    @property
    def lanes(self) -> int:
        """Lanes of the vector; 1 of a scalar."""
        return int(self.type.count) if isinstance(self.type, ir.VectorType) else 1

    @property
    def floating(self) -> bool:
        """Whether it holds floats."""
        return isinstance(self.element, (ir.FloatType, ir.HalfType))

    def _like(self, kind: Any) -> Any:
        return vector(kind, self.lanes) if isinstance(self.type, ir.VectorType) else kind

    def constant(self, number: float | Sequence[float]) -> Value:
        """A constant of the same type."""
        if isinstance(self.type, ir.VectorType) and not isinstance(number, Sequence):
            number = [number] * self.lanes
        return Value(self.builder, ir.Constant(self.type, number))

    def _other(self, other: Any) -> Any:
        return other.raw if isinstance(other, Value) else self.constant(other).raw

    def _do(self, name: str, other: Any) -> Value:
        return Value(self.builder, getattr(self.builder, name)(self.raw, self._other(other)))

    def __add__(self, other: Any) -> Value:
        return self._do("fadd" if self.floating else "add", other)

    def __sub__(self, other: Any) -> Value:
        return self._do("fsub" if self.floating else "sub", other)

    def __mul__(self, other: Any) -> Value:
        return self._do("fmul" if self.floating else "mul", other)

    def __truediv__(self, other: Any) -> Value:
        return self._do("fdiv", other)

    def __floordiv__(self, other: Any) -> Value:
        return self._do("udiv", other)

    def __and__(self, other: Any) -> Value:
        return self._do("and_", other)

    def __or__(self, other: Any) -> Value:
        return self._do("or_", other)

    def __xor__(self, other: Any) -> Value:
        return self._do("xor", other)

    def __lshift__(self, other: Any) -> Value:
        return self._do("shl", other)

    def __rshift__(self, other: Any) -> Value:
        return self._do("lshr", other)

    def signed_shift(self, other: int) -> Value:
        """Shifted to the right with its sign."""
        return self._do("ashr", other)

    # -- conversions ---------------------------------------------------------------

    def _cast(self, name: str, kind: Any) -> Value:
        return Value(self.builder, getattr(self.builder, name)(self.raw, kind))

    def widened(self, kind: Any) -> Value:
        """Integers in a wider type, without a sign."""
        return self._cast("zext", self._like(kind))

    def widened_signed(self, kind: Any) -> Value:
        """Integers in a wider type, with their sign."""
        return self._cast("sext", self._like(kind))

    def narrowed(self, kind: Any) -> Value:
        """The low bits of integers."""
        return self._cast("trunc", self._like(kind))

    def seen_as(self, kind: Any) -> Value:
        """The same bits as another type."""
        return self._cast("bitcast", kind)

    def to_float(self) -> Value:
        """float32 of signed integers or of halves."""
        return self._cast("fpext" if self.floating else "sitofp", self._like(F32))

    # -- lanes -----------------------------------------------------------------------

    def shuffled(self, mask: Sequence[int], other: Value | None = None) -> Value:
        """Lanes by number, those of `other` after one's own."""
        second = other.raw if other is not None else ir.Constant(self.type, ir.Undefined)
        if list(mask) == list(range(self.lanes)):
            return self
        where = ir.Constant(vector(I32, len(mask)), list(mask))
        return Value(self.builder, self.builder.shuffle_vector(self.raw, second, where))

    def spread(self, lanes: int) -> Value:
        """A scalar in every lane of a vector."""
        whole = ir.Constant(vector(self.type, lanes), ir.Undefined)
        one = self.builder.insert_element(whole, self.raw, I32(0))
        return Value(self.builder, one).shuffled([0] * lanes)

    def lane(self, index: int) -> Value:
        """One lane."""
        return Value(self.builder, self.builder.extract_element(self.raw, I32(index)))

    # -- functions of LLVM -------------------------------------------------------------

    def _call(self, name: str, result: Any, *others: Value) -> Value:
        module = self.builder.module
        arguments = (self.raw, *(other.raw for other in others))
        function = module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(result, [argument.type for argument in arguments])
            function = ir.Function(module, kind, name)
        return Value(self.builder, self.builder.call(function, arguments))

    def _suffix(self) -> str:
        letter = {F32: "f32", F16: "f16"}.get(self.element) or f"i{self.element.width}"
        return f"v{self.lanes}{letter}" if isinstance(self.type, ir.VectorType) else letter

    def times_plus(self, factor: Value, addend: Value) -> Value:
        """`self * factor + addend`, rounded once."""
        return self._call(f"llvm.fma.{self._suffix()}", self.type, factor, addend)

    def absolute(self) -> Value:
        """Without its sign."""
        return self._call(f"llvm.fabs.{self._suffix()}", self.type)

    def rounded(self) -> Value:
        """int32 nearest to a float32, ties to even; not-a-number gives 0."""
        near = self._call(f"llvm.rint.{self._suffix()}", self.type)
        target = self._like(I32)
        suffix = near._suffix().replace("f32", "i32")
        return near._call(f"llvm.fptosi.sat.{suffix}.{near._suffix()}", target)

    def largest(self) -> Value:
        """The largest lane of floats that are not negative; not-a-number wins."""
        whole = self.seen_as(self._like(I32))
        top = whole._call(f"llvm.vector.reduce.umax.{whole._suffix()}", I32)
        return top.seen_as(F32)

    def total(self) -> Value:
        """The sum of the lanes; of floats as a tree."""
        if not self.floating:
            return self._call(f"llvm.vector.reduce.add.{self._suffix()}", self.element)
        part = self
        while part.lanes > 1:
            half = part.lanes // 2
            part = part.shuffled(range(half)) + part.shuffled(range(half, 2 * half))
        return part.lane(0)


def joined(parts: Sequence[Value]) -> Value:
    """Vectors of the same length one after the other; a power of two of them."""
    parts = list(parts)
    while len(parts) > 1:
        lanes = parts[0].lanes
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [a.shuffled(range(2 * lanes), b) for a, b in pairs]
    return parts[0]
