"""The function that Python calls: it starts the others, one of them on all threads."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quantload_kernels_cpu.emit.function import Writer
from quantload_kernels_cpu.emit.value import I32, I64
from quantload_kernels_cpu.functions.record import COMMON


def write_driver(
    module: Any, name: str, arguments: tuple[str, ...], shared: Any, prepares: bool
) -> None:
    """A function that prepares `x`, where there is one, and calls `shared` on every thread.

    OpenMP's threads are torch's own, which wait for work: starting some takes microseconds.

    Args:
        module: where it goes.
        name: its name.
        arguments: those of the layout.
        shared: a function of the module that takes its share of the work from the counter.
        prepares: whether the function at `prepare` is called first.
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
    if prepares:
        builder.call(builder.inttoptr(writer["prepare"].raw, shared.type), [array])
    kind = ir.FunctionType(ir.VoidType(), [shared.type, array.type, I32, I32])
    with writer.branch(writer["parallel"]) as (several, alone):
        with several:
            parallel = builder.inttoptr(writer["parallel"].raw, kind.as_pointer())
            threads = writer["threads"].narrowed(I32)
            builder.call(parallel, [shared, array, threads.raw, I32(0)])
        with alone:
            builder.call(shared, [array])
    writer.finish()
