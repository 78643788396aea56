"""`Writer`: the function that is being written, with its loops and its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from quantload_kernels_cpu.emit.value import F16, F32, I8, I16, I32, I64, POINTER, Value, vector


class Writer:
    """Appends to a function `void name(int64 *arguments)`.

    Args:
        module: the module of the function.
        name: of the function.
        arguments: names of the 64-bit numbers in the array it is given.
    """

    def __init__(self, module: Any, name: str, arguments: tuple[str, ...]) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64.as_pointer()])
        self.function = ir.Function(module, kind, name)
        self.builder: Any = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.arguments = {
            name: Value(self.builder, self.builder.load(self._argument(index)))
            for index, name in enumerate(arguments)
        }

    def _argument(self, index: int) -> Any:
        return self.builder.gep(self.function.args[0], [I64(index)])

    def __getitem__(self, name: str) -> Value:
        """An argument by name."""
        return self.arguments[name]

    def number(self, value: int) -> Value:
        """An int64 constant."""
        return Value(self.builder, I64(value))

    def floats(self, value: float, lanes: int = 1) -> Value:
        """A float32 constant, or a vector of it."""
        zero = Value(self.builder, ir.Constant(F32, 0.0 if lanes == 1 else None))
        if lanes == 1:
            return zero.constant(value)
        return Value(self.builder, ir.Constant(vector(F32, lanes), [float(value)] * lanes))

    # -- memory ------------------------------------------------------------------------

    def load(self, kind: Any, address: Value, offset: int = 0) -> Value:
        """What stands at an address (int64), aligned to nothing."""
        where = (address + offset if offset else address).raw
        pointer = self.builder.inttoptr(where, kind.as_pointer())
        return Value(self.builder, self.builder.load(pointer, align=1))

    def store(self, value: Value, address: Value, offset: int = 0) -> None:
        """Put a value at an address, aligned to nothing."""
        where = (address + offset if offset else address).raw
        pointer = self.builder.inttoptr(where, value.type.as_pointer())
        self.builder.store(value.raw, pointer, align=1)

    def prefetch(self, address: Value, nbytes: int) -> None:
        """Have the lines of some bytes brought into the second cache; any address will do.

        The first one can wait for few lines at a time, and those are the ones in use.
        """
        name = "llvm.prefetch.p0"
        function = self.builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32])
            function = ir.Function(self.builder.module, kind, name)
        for offset in range(0, nbytes, 64):
            pointer = self.builder.inttoptr((address + offset).raw, POINTER)
            self.builder.call(function, [pointer, I32(0), I32(2), I32(1)])

    def load_floats(self, dtype: str, address: Value, lanes: int) -> Value:
        """float32 from "float32", "float16" or "bfloat16" in memory; a scalar of one lane."""
        element = {"float32": F32, "float16": F16, "bfloat16": I16}[dtype]
        found = self.load(element if lanes == 1 else vector(element, lanes), address)
        if dtype == "float32":
            return found
        if dtype == "float16":
            return found.to_float()
        wide = found.widened(I32) << 16
        return wide.seen_as(F32 if lanes == 1 else vector(F32, lanes))

    def store_floats(self, dtype: str, value: Value, address: Value) -> None:
        """The opposite of `load_floats`; rounds to nearest, ties to even."""
        if dtype == "float32":
            self.store(value, address)
            return
        if dtype == "float16":
            half = value._cast("fptrunc", value._like(F16))
            self.store(half, address)
            return
        bits = value.seen_as(value._like(I32))
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        strange = self.builder.fcmp_unordered("uno", value.raw, value.raw)
        chosen = self.builder.select(strange, bits.constant(0x7FC0).raw, rounded.raw)
        self.store(Value(self.builder, chosen).narrowed(I16), address)

    def variable(self, start: Value) -> Variable:
        """A place for a value that changes, which the optimizer keeps in a register."""
        with self.builder.goto_entry_block():
            place = self.builder.alloca(start.type)
        self.builder.store(start.raw, place)
        return Variable(self.builder, place)

    def buffer(self, size: int) -> Value:
        """Address of bytes on the stack, aligned to 64."""
        with self.builder.goto_entry_block():
            place = self.builder.alloca(ir.ArrayType(I8, size))
            place.align = 64
            raw = self.builder.ptrtoint(place, I64)
        return Value(self.builder, raw)

    # -- control -----------------------------------------------------------------------

    @contextmanager
    def loop(self, start: Value, stop: Value, step: int = 1) -> Iterator[Value]:
        """The body of a loop over int64 from `start` to before `stop`."""
        test = self.function.append_basic_block("test")
        body = self.function.append_basic_block("body")
        after = self.function.append_basic_block("after")
        index = self.variable(start)
        self.builder.branch(test)
        self.builder.position_at_end(test)
        more = self.builder.icmp_signed("<", index.value.raw, stop.raw)
        self.builder.cbranch(more, body, after)
        self.builder.position_at_end(body)
        yield index.value
        index.value = index.value + step
        self.builder.branch(test)
        self.builder.position_at_end(after)

    @contextmanager
    def shared_run(
        self, counter: Value, stop: Value, chunk: Value
    ) -> Iterator[tuple[Value, Value]]:
        """The body of a loop over runs of `chunk` indices that threads take from a counter."""
        test = self.function.append_basic_block("take")
        body = self.function.append_basic_block("taken")
        after = self.function.append_basic_block("done")
        pointer = self.builder.inttoptr(counter.raw, I64.as_pointer())
        self.builder.branch(test)
        self.builder.position_at_end(test)
        first = Value(self.builder, self.builder.atomic_rmw("add", pointer, chunk.raw, "monotonic"))
        more = self.builder.icmp_signed("<", first.raw, stop.raw)
        self.builder.cbranch(more, body, after)
        self.builder.position_at_end(body)
        yield first, self.smaller(first + chunk, stop)
        self.builder.branch(test)
        self.builder.position_at_end(after)

    @contextmanager
    def shared_loop(self, counter: Value, stop: Value, chunk: Value) -> Iterator[Value]:
        """Like `loop`, for indices that threads take from a counter in runs of `chunk`."""
        with self.shared_run(counter, stop, chunk) as (first, last), self.loop(first, last) as i:
            yield i

    def smaller(self, one: Value, other: Value) -> Value:
        """The smaller of two signed integers."""
        less = self.builder.icmp_signed("<", one.raw, other.raw)
        return Value(self.builder, self.builder.select(less, one.raw, other.raw))

    def where_zero(self, tested: Value, zero: Value, otherwise: Value) -> Value:
        """`zero` where a float is 0, and else `otherwise`."""
        same = self.builder.fcmp_ordered("==", tested.raw, tested.constant(0.0).raw)
        return Value(self.builder, self.builder.select(same, zero.raw, otherwise.raw))

    def branch(self, tested: Value) -> Any:
        """Context of two contexts: what is done where an integer is not 0, and where it is."""
        there = self.builder.icmp_unsigned("!=", tested.raw, tested.constant(0).raw)
        return self.builder.if_else(there)

    def finish(self) -> Any:
        """The end of the function, which is given back."""
        self.builder.ret_void()
        return self.function


class Variable:
    """See `Writer.variable`."""

    def __init__(self, builder: Any, place: Any) -> None:
        self._builder, self._place = builder, place

    @property
    def value(self) -> Value:
        """What it is now."""
        return Value(self._builder, self._builder.load(self._place))

    @value.setter
    def value(self, new: Value) -> None:
        self._builder.store(new.raw, self._place)


__all__ = ["POINTER", "Variable", "Writer"]
