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
def product(layout: str, dtype: str, tail: int, count: int) -> Callable[[Any], None]:
    """The product of `count` rows of `x`, as a function of the array `COMMON` describes.

    Args:
        layout: its name.
        dtype: of `x` and the result, without "torch.".
        tail: columns of the last step; 0 where it is as long as the others.
        count: rows of `x`.
    """

    def write(module: Any, name: str) -> None:
        found, vnni = find(layout), settings.vnni()
        record = Record(found, LIMBS[dtype])
        first = write_prepare(module, "prepare", record, dtype, tail, vnni)
        shared = write_few_rows(module, "few_rows", record, dtype, tail, vnni, count)
        write_driver(module, name, found.arguments, first, shared)

    return _callable(compiler.address(f"product-{layout}-{dtype}-{tail}-{count}", write))


@cache
def decoder(layout: str, dtype: str, tail: int) -> Callable[[Any], None]:
    """The decoder of rows, likewise."""

    def write(module: Any, name: str) -> None:
        found = find(layout)
        shared = write_decode(module, "decode", found, dtype, tail)
        write_driver(module, name, found.arguments, None, shared)

    return _callable(compiler.address(f"decode-{layout}-{dtype}-{tail}", write))


def _callable(address: int) -> Callable[[Any], None]:
    found: Callable[[Any], None] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
    return found
