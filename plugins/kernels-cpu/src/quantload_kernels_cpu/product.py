"""`x @ W.T` for any layout: packed for few rows of `x`, decoded run by run for many."""

from __future__ import annotations

import ctypes
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
    columns = x.shape[-1]
    flat = x.reshape(-1, columns)
    if flat.stride(1) != 1:
        flat = flat.contiguous()
    weight = Weight(storage, layout, sizes, rows, columns)
    if flat.shape[0] <= crossing.rows(layout, x.dtype):
        out = flat.new_empty((flat.shape[0], rows))
        weight.multiply(flat, out)
    else:
        out = _many_rows(flat, weight)
    return out.view(*x.shape[:-1], rows)


def gradient(
    grad: Tensor, storage: Sequence[Tensor], layout: str, sizes: Sequence[int], columns: int
) -> Tensor:
    """The gradient to `x` for one to the product: `grad @ W`."""
    flat = grad.reshape(-1, grad.shape[-1])
    weight = Weight(storage, layout, sizes, grad.shape[-1], columns)
    total = flat.new_zeros((flat.shape[0], columns), dtype=torch.float32)
    for part, decoded in weight.decoded(crossing.decoded_dtype(grad.dtype)):
        total += flat[:, part].to(decoded.dtype) @ decoded
    return total.to(grad.dtype).view(*grad.shape[:-1], columns)


def _many_rows(flat: Tensor, weight: Weight) -> Tensor:
    out = flat.new_empty((flat.shape[0], weight.rows))
    other = flat.to(crossing.decoded_dtype(flat.dtype))
    for part, decoded in weight.decoded(other.dtype):
        out[:, part] = other @ decoded.T
    return out


class Weight:
    """A weight as the compiled functions see it.

    Args:
        storage: see `linear`, as are the others.
        layout: likewise.
        sizes: likewise.
        rows: out_features.
        columns: in_features.
    """

    def __init__(
        self,
        storage: Sequence[Tensor],
        layout: str,
        sizes: Sequence[int],
        rows: int,
        columns: int,
    ) -> None:
        self.name, self.rows, self.columns = layout, rows, columns
        self.layout = find(layout)
        self.steps, self.tail = -(-columns // self.layout.columns), columns % self.layout.columns
        self._numbers = [*(tensor.data_ptr() for tensor in storage), *sizes]

    def multiply(self, x: Tensor, out: Tensor) -> None:
        """The product of rows of `x` into rows of `out`."""
        dtype, count = str(x.dtype)[6:], x.shape[0]
        together = count if count < 3 else AT_ONCE
        run = units.product(self.name, dtype, self.tail, together)
        nbytes = Record(self.layout, LIMBS[dtype]).nbytes
        records = torch.empty(count * self.steps * nbytes, dtype=torch.uint8)
        item = ITEM[dtype]
        self._call(
            run,
            x.data_ptr(),
            x.stride(0) * item,
            count,
            self.steps,
            records.data_ptr(),
            out.data_ptr(),
            self.rows * item,
            0,
            self.rows,
            prepare=units.preparation(self.name, dtype, self.tail),
        )

    def decoded(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Runs of rows and their numbers `[n, in_features]`; each is overwritten by the next."""
        name = str(dtype)[6:]
        run = units.decoder(self.name, name, self.tail)
        step = min(self.rows, max(1, _ELEMENTS // self.columns))
        room = torch.empty((step, self.columns), dtype=dtype)
        for first in range(0, self.rows, step):
            count = min(step, self.rows - first)
            width = self.columns * ITEM[name]
            self._call(run, 0, 0, 0, self.steps, 0, room.data_ptr(), width, first, count)
            yield slice(first, first + count), room[:count]

    def _call(self, function: Callable[[Any], None], *numbers: int, prepare: int = 0) -> None:
        threads = threads_for(numbers[8] // _PART)
        parallel = parallel_address() if threads > 1 else 0
        array = _array(len(COMMON) + len(self._numbers))
        function(array(*numbers, 0, _PART, parallel, threads, prepare, *self._numbers))


@cache
def _array(length: int) -> Any:
    return ctypes.c_int64 * length
