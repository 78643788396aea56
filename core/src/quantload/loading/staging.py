"""Reading ahead into memory that is used again and again.

Touching fresh pages is what costs when weights are converted (1.7 GB/s against 12
for pages touched before), and what makes memory grow. So everything that only
passes through goes into one circular buffer of fixed size, filled by worker
threads while the main thread converts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantload.checkpoint.base import Checkpoint
from quantload.checkpoint.tensorinfo import TensorInfo

if TYPE_CHECKING:
    from typing_extensions import Self

MIB = 1 << 20
ALIGNMENT = 64


@dataclass(frozen=True)
class Job:
    """A tensor, or some of its rows, to be read through the buffer."""

    name: str
    nbytes: int
    rows: slice | None = None


def row_jobs(info: TensorInfo, limit: int) -> Iterator[Job]:
    """A tensor in pieces of whole rows and about `limit` bytes."""
    rows = info.torch_shape[0] if info.torch_shape else 0
    if info.nbytes <= limit or rows < 2:
        yield Job(info.name, info.nbytes)
        return
    each = info.nbytes // rows
    count = max(limit // each, 1)
    for start in range(0, rows, count):
        stop = min(start + count, rows)
        yield Job(info.name, (stop - start) * each, slice(start, stop))


class Ring:
    """A circular buffer that is given out and taken back in the same order.

    Args:
        capacity: bytes.
        pinned: page-locked, for asynchronous copies to an accelerator.
    """

    def __init__(self, capacity: int, pinned: bool = False) -> None:
        self.memory = torch.empty(capacity, dtype=torch.uint8, pin_memory=pinned)
        self._given: deque[tuple[int, int]] = deque()

    def acquire(self, nbytes: int) -> Tensor | None:
        """`nbytes` of it as a uint8 tensor; None while there is no room."""
        size = -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT
        start = self._room(size)
        if start is None:
            return None
        self._given.append((start, start + size))
        return self.memory[start : start + nbytes]

    def _room(self, size: int) -> int | None:
        capacity = self.memory.numel()
        if not self._given:
            return 0 if size <= capacity else None
        first, last = self._given[0][0], self._given[-1]
        if last[0] >= first:  # the free room is at the end and before the first
            if capacity - last[1] >= size:
                return last[1]
            return 0 if first >= size else None
        return last[1] if first - last[1] >= size else None

    def release(self) -> None:
        """Take back what was given out first."""
        self._given.popleft()

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in the buffer."""
        start = self.memory.data_ptr()
        return start <= tensor.data_ptr() < start + self.memory.numel()


class ReadAhead:
    """Reads jobs in order, as many at a time as the buffer has room for.

    All bookkeeping is done by the thread that takes and gives back; the workers
    only read. A context manager: leaving it waits for the reads that are running
    and drops the rest.

    Args:
        checkpoint: what to read from.
        jobs: in the order in which they will be taken.
        ring: the buffer; it has room for the largest job.
        workers: how many reads run at the same time.
    """

    def __init__(
        self, checkpoint: Checkpoint, jobs: Iterable[Job], ring: Ring, workers: int = 1
    ) -> None:
        self._checkpoint = checkpoint
        self._jobs: Iterator[Job] = iter(jobs)
        self._next: Job | None = next(self._jobs, None)
        self._ring = ring
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="quantload-read")
        self._running: deque[tuple[Job, Future[Tensor]]] = deque()

    def _pump(self) -> None:
        while self._next is not None:
            room = self._ring.acquire(self._next.nbytes)
            if room is None:
                return
            job = self._next
            future = self._pool.submit(self._checkpoint.read_into, job.name, room, rows=job.rows)
            self._running.append((job, future))
            self._next = next(self._jobs, None)

    @property
    def waiting(self) -> bool:
        """Whether the next job is being read; if not, the buffer has no room for it."""
        self._pump()
        return bool(self._running)

    def take(self) -> Tensor:
        """The tensor of the next job; valid until `give_back` is called for it."""
        self._pump()
        return self._running.popleft()[1].result()

    def give_back(self) -> None:
        """The oldest tensor taken is no longer needed."""
        self._ring.release()
        self._pump()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._running.clear()
