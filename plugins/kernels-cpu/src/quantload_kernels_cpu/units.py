"""What is compiled for a layout, once per process."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from quantload_kernels_cpu import compiler, settings
from quantload_kernels_cpu.functions.decode import write_decode
from quantload_kernels_cpu.functions.driver import write_driver
from quantload_kernels_cpu.functions.few_rows import write_few_rows
from quantload_kernels_cpu.functions.prepare import write_prepare
from quantload_kernels_cpu.functions.record import LIMBS, Record
from quantload_kernels_cpu.layouts import find


@cache
def preparation(layout: str, dtype: str, tail: int) -> int:
    """Address of the function that fills the records of `x`, see `Record`.

    Args:
        layout: its name.
        dtype: of `x`, without "torch.".
        tail: columns of the last step; 0 where it is as long as the others.
    """

    def write(module: Any, name: str) -> None:
        record = Record(find(layout), LIMBS[dtype])
        write_prepare(module, name, record, dtype, tail, settings.vnni())

    return compiler.address(f"prepare-{layout}-{dtype}-{tail}", write)


@cache
def product(layout: str, dtype: str, tail: int, count: int) -> Callable[[Any], None]:
    """The product of `count` rows of `x`, as a function of the array `COMMON` describes.

    Args:
        layout: see `preparation`, as are the others.
        dtype: likewise, and of the result.
        tail: likewise.
        count: rows of `x`.
    """

    def write(module: Any, name: str) -> None:
        found, vnni = find(layout), settings.vnni()
        record = Record(found, LIMBS[dtype])
        shared = write_few_rows(module, "few_rows", record, dtype, tail, vnni, count)
        write_driver(module, name, found.arguments, shared, prepares=True)

    return _callable(compiler.address(f"product-{layout}-{dtype}-{tail}-{count}", write))


@cache
def decoder(layout: str, dtype: str, tail: int) -> Callable[[Any], None]:
    """The decoder of rows, likewise."""

    def write(module: Any, name: str) -> None:
        found = find(layout)
        shared = write_decode(module, "decode", found, dtype, tail)
        write_driver(module, name, found.arguments, shared, prepares=False)

    return _callable(compiler.address(f"decode-{layout}-{dtype}-{tail}", write))


def _callable(address: int) -> Callable[[Any], None]:
    found: Callable[[Any], None] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
    return found
