"""Scratch memory that is used again, and threads that each work on a chunk of their own.

Touching fresh pages costs more than the arithmetic of quantization, so the buffers of
one layer serve the next. Torch looks tables up (`index_select`) on one thread only, and
splitting each of fifteen short operations among threads costs a rendezvous each, which
takes milliseconds where another process wants the core; and the threads that meet there
go on spinning for a while afterwards. So whole chunks, be it only one, are handed to
Python threads in which torch does not split its operations.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

MAX_WORKERS = 8

SPLIT_FROM = 32768
"""Fewer elements torch does not split among threads anyway."""

T = TypeVar("T")

_starting = threading.Lock()


class Workspace:
    """Buffers and threads, kept for as long as this object lives. Safe to share by threads.

    A copy of it, and a forked process, start with none.
    """

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        return Workspace, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Workspace:
        return Workspace()

    @contextmanager
    def borrow(self, nbytes: int, device: torch.device) -> Iterator[Tensor]:
        """A uint8 buffer of at least `nbytes` on `device`, for the time of the block."""
        with self._lock:
            fitting = (
                i for i, b in enumerate(self._free) if b.device == device and len(b) >= nbytes
            )
            found = next(fitting, None)
            buffer = None if found is None else self._free.pop(found)
        if buffer is None:
            with torch.inference_mode(mode=False):
                buffer = torch.empty(nbytes, dtype=torch.uint8, device=device)
        try:
            yield buffer
        finally:
            with self._lock:
                self._free.append(buffer)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers that are not in use now."""
        with self._lock:
            return sum(len(buffer) for buffer in self._free)

    def in_chunks(
        self, total: int, step: int, work: Callable[[int, int], None], *, each: int = 1
    ) -> None:
        """Call `work(start, stop)` for each chunk of `range(total)`.

        Args:
            total: number of units.
            step: units in a chunk; the last may be shorter.
            work: must not depend on the order of its calls.
            each: elements in a unit; 0 for work that is not for the CPU.
        """
        spans = [(start, min(start + step, total)) for start in range(0, total, step)]
        if total * each < SPLIT_FROM or torch.get_num_threads() < 2:
            for span in spans:
                work(*span)
            return
        for done in [self._submit(work, *span) for span in spans]:
            done.result()

    def unsplit(self, size: int, work: Callable[[], T]) -> T:
        """The result of `work()`, in which torch splits no operation.

        Args:
            size: elements it works on; few are worked on right here.
            work: what to do, with tensors on the CPU.
        """
        if size < SPLIT_FROM or torch.get_num_threads() < 2:
            return work()
        return self._submit(work).result()

    def _submit(self, work: Callable[..., T], *arguments: int) -> Future[T]:
        inference = torch.is_inference_mode_enabled()

        def run() -> T:
            # Both modes belong to a thread; a new one starts without them.
            with torch.inference_mode(mode=inference), torch.no_grad():
                return work(*arguments)

        return self._threads().submit(run)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._process != os.getpid():
                # Threads do not survive a fork, and waiting for them would never end.
                self._pool = _serial_threads(min(MAX_WORKERS, torch.get_num_threads()))
                self._process = os.getpid()
            return self._pool


def _serial_threads(count: int) -> ThreadPoolExecutor:
    """Threads in which torch splits no operation.

    The number of threads torch uses is a property of each thread, but setting it also
    sets what later threads start with; that is put back before this returns.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix="quantload-quantize")
    everyone = threading.Barrier(count)

    def settle() -> None:
        everyone.wait()
        # The first question makes torch set the thread up, which would undo what follows.
        torch.get_num_threads()
        torch.set_num_threads(1)

    with _starting:
        before = torch.get_num_threads()
        try:
            for done in [pool.submit(settle) for _ in range(count)]:
                done.result()
        finally:
            torch.set_num_threads(before)
    return pool


def carve(buffer: Tensor, count: int, *dtypes: torch.dtype) -> tuple[Tensor, ...]:
    """Tensors of `count` elements each, laid one after the other into `buffer`."""
    parts, start = [], 0
    for dtype in dtypes:
        stop = start + count * dtype.itemsize
        parts.append(buffer[start:stop].view(dtype))
        start = -(-stop // 64) * 64
    return tuple(parts)
