"""Giving freed memory back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable

STRIDE = 64 << 20
"""Bytes after which it is worth while."""
PACKED_STRIDE = STRIDE // 4
"""Of packed weights, whose codes take several times as much while kernels arrange them."""


class Trimmer:
    """Lets the allocator give back what it keeps, once in a while.

    The temporaries of a quantizer lie between the weights it makes. What they leave
    free is often too small for the next ones, and would add up to as much as the model.
    """

    def __init__(self, stride: int = STRIDE) -> None:
        self._stride = stride
        self._passed = 0

    def passed(self, nbytes: int) -> None:
        """So many bytes were converted."""
        self._passed += nbytes
        if self._passed >= self._stride:
            self._passed = 0
            trim()


def trim() -> None:
    """Give free memory inside the heap back; does nothing where the C library cannot."""
    _malloc_trim()(0)


@functools.cache
def _malloc_trim() -> Callable[[int], object]:
    with contextlib.suppress(OSError, AttributeError, TypeError):
        found: Callable[[int], object] = ctypes.CDLL(None).malloc_trim  # glibc
        return found
    return lambda padding: padding
