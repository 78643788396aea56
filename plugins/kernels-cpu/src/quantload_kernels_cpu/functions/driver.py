"""The function that Python calls: it starts the others, one of them on all threads."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quantload_kernels_cpu.emit.function import Writer
from quantload_kernels_cpu.emit.value import I32, I64, Value
from quantload_kernels_cpu.functions.record import COMMON


def write_driver(
    module: Any, name: str, arguments: tuple[str, ...], first: Any, shared: Any
) -> None:
    """A function that calls `first`, if there is one, and then `shared` on every thread.

    OpenMP's threads are torch's own, which wait for work: starting some takes microseconds.

    Args:
        module: where it goes.
        name: its name.
        arguments: those of the layout.
        first: a function of the module, or None.
        shared: likewise; it takes its share of the work from the counter.
    """
    names = COMMON + arguments
    writer = Writer(module, name, names)
    builder = writer.builder
    array = writer.function.args[0]
    with builder.goto_entry_block():
        counter = builder.alloca(I64)
    builder.store(I64(0), counter)
    place = builder.gep(array, [I64(names.index("counter"))])
    builder.store(builder.ptrtoint(counter, I64), place)
    if first is not None:
        builder.call(first, [array])
    kind = ir.FunctionType(ir.VoidType(), [shared.type, array.type, I32, I32])
    with writer.branch(writer["parallel"]) as (several, alone):
        with several:
            parallel = builder.inttoptr(writer["parallel"].raw, kind.as_pointer())
            threads = writer["threads"].narrowed(I32)
            builder.call(parallel, [shared, array, threads.raw, I32(0)])
        with alone:
            builder.call(shared, [array])
    writer.finish()


__all__ = ["Value", "write_driver"]
