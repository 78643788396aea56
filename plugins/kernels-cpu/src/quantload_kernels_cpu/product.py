"""`x @ W.T` for any layout: packed for few rows of `x`, decoded run by run for many."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from quantload_kernels_cpu import crossing, units
from quantload_kernels_cpu.functions.record import COMMON, ITEM, LIMBS, Record
from quantload_kernels_cpu.layouts import find
from quantload_kernels_cpu.threads import parallel_address, threads_for

AT_ONCE = 4
"""Rows of `x` that are multiplied together: their sums fit the registers."""

_ELEMENTS = 3 << 19
"""Decoded at once: what fits the caches, and is worth waking the threads for."""

_PART = 64
"""Rows of a weight that a thread takes at a time."""


def linear(
    x: Tensor, storage: Sequence[Tensor], layout: str, sizes: Sequence[int], rows: int
) -> Tensor:
    """`x @ W.T` in `x.dtype`.

    Args:
        x: float32, float16 or bfloat16 `[..., in_features]`.
        storage: tensors that the layout's arguments give the addresses of, in that order.
        layout: name of the layout.
        sizes: the numbers that follow them.
        rows: out_features.
    """
    shape = x.shape
    columns = shape[-1]
    weight = _shape(layout, rows, columns, *sizes)
    if x.is_contiguous():
        count, stride = x.numel() // columns, columns
    else:
        x = x.reshape(-1, columns)
        x = x if x.stride(1) == 1 else x.contiguous()
        count, stride = x.shape[0], x.stride(0)
    if count > weight.crossing(x.dtype):
        flat = x.reshape(-1, columns)
        return _many_rows(flat, weight, storage).view(*shape[:-1], rows)
    out = torch.empty((*shape[:-1], rows), dtype=x.dtype)
    if count:
        weight.multiply(x, stride, count, out, [tensor.data_ptr() for tensor in storage])
    return out


def gradient(
    grad: Tensor, storage: Sequence[Tensor], layout: str, sizes: Sequence[int], columns: int
) -> Tensor:
    """The gradient to `x` for one to the product: `grad @ W`."""
    flat = grad.reshape(-1, grad.shape[-1])
    weight = _shape(layout, grad.shape[-1], columns, *sizes)
    total = flat.new_zeros((flat.shape[0], columns), dtype=torch.float32)
    for part, decoded in weight.decoded(storage, crossing.decoded_dtype(grad.dtype)):
        total += flat[:, part].to(decoded.dtype) @ decoded
    return total.to(grad.dtype).view(*grad.shape[:-1], columns)


def _many_rows(flat: Tensor, weight: Shape, storage: Sequence[Tensor]) -> Tensor:
    out = flat.new_empty((flat.shape[0], weight.rows))
    other = flat.to(crossing.decoded_dtype(flat.dtype))
    for part, decoded in weight.decoded(storage, other.dtype):
        out[:, part] = other @ decoded.T
    return out


class Shape:
    """Weights of one layout and size, as the compiled functions see them.

    What can be known before a product is kept here: with one row of `x` the time that
    Python takes counts.

    Args:
        layout: see `linear`, as are the others.
        rows: out_features.
        columns: in_features.
        sizes: see `linear`.
    """

    def __init__(self, layout: str, rows: int, columns: int, sizes: Sequence[int]) -> None:
        self.name, self.rows, self.columns = layout, rows, columns
        self.layout = find(layout)
        self.steps, self.tail = -(-columns // self.layout.columns), columns % self.layout.columns
        self.crossing = cache(lambda dtype: crossing.rows(layout, dtype))
        self.product = cache(self._product)
        self._sizes = tuple(sizes)
        self._array = ctypes.c_int64 * (len(COMMON) + len(self.layout.arguments))
        self._pack = struct.Struct(f"{len(COMMON) + len(self.layout.arguments)}q").pack

    def _product(
        self, dtype: torch.dtype, count: int
    ) -> tuple[Callable[[Any], None], int, int, int]:
        """The function for `count` rows, the preparation, bytes of a record and of a number."""
        name = str(dtype)[6:]
        return (
            units.product(self.name, name, self.tail, count),
            units.preparation(self.name, name, self.tail),
            self.steps * Record(self.layout, LIMBS[name]).nbytes,
            ITEM[name],
        )

    def multiply(
        self, x: Tensor, stride: int, count: int, out: Tensor, addresses: Sequence[int]
    ) -> None:
        """The product of rows of `x` into the rows of `out`, which has no gaps.

        Args:
            x: its numbers.
            stride: numbers from one row of it to the next.
            count: how many rows.
            out: the result.
            addresses: of the storage.
        """
        run, prepare, nbytes, item = self.product(x.dtype, count if count < 3 else AT_ONCE)
        self._call(
            run,
            x.data_ptr(),
            stride * item,
            count,
            self.steps,
            _room(count * nbytes),
            out.data_ptr(),
            self.rows * item,
            0,
            self.rows,
            prepare,
            addresses,
        )

    def decoded(
        self, storage: Sequence[Tensor], dtype: torch.dtype
    ) -> Iterator[tuple[slice, Tensor]]:
        """Runs of rows and their numbers `[n, in_features]`; each is overwritten by the next."""
        name = str(dtype)[6:]
        run = units.decoder(self.name, name, self.tail)
        step = min(self.rows, max(1, _ELEMENTS // self.columns))
        room = torch.empty((step, self.columns), dtype=dtype)
        addresses = [tensor.data_ptr() for tensor in storage]
        width, target = self.columns * ITEM[name], room.data_ptr()
        for first in range(0, self.rows, step):
            count = min(step, self.rows - first)
            self._call(run, 0, 0, 0, self.steps, 0, target, width, first, count, 0, addresses)
            yield slice(first, first + count), room[:count]

    def _call(
        self,
        function: Callable[[Any], None],
        x: int,
        x_row_bytes: int,
        count: int,
        steps: int,
        records: int,
        out: int,
        out_row_bytes: int,
        first: int,
        rows: int,
        prepare: int,
        addresses: Sequence[int],
    ) -> None:
        """Call a function with the numbers of `COMMON` and those of the layout."""
        threads = threads_for(rows // _PART)
        numbers = self._pack(
            x,
            x_row_bytes,
            count,
            steps,
            records,
            out,
            out_row_bytes,
            first,
            rows,
            0,
            _PART,
            parallel_address() if threads > 1 else 0,
            threads,
            prepare,
            *addresses,
            *self._sizes,
        )
        function(self._array.from_buffer_copy(numbers))


@cache
def _shape(layout: str, rows: int, columns: int, *sizes: int) -> Shape:
    return Shape(layout, rows, columns, sizes)


class _Rooms(threading.local):
    """Memory for records, one piece for each thread that calls."""

    room = torch.empty(0, dtype=torch.uint8)


_rooms = _Rooms()


def _room(nbytes: int) -> int:
    """Address of so many bytes, which the next call in this thread overwrites."""
    if _rooms.room.numel() < nbytes:
        _rooms.room = torch.empty(nbytes, dtype=torch.uint8)
    return _rooms.room.data_ptr()
