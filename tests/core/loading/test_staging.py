"""The circular staging buffer, and reading ahead through it."""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import write

from quantload import CheckpointError, open_checkpoint
from quantload.loading.staging import Job, ReadAhead, Ring


@settings(max_examples=300, deadline=None)
@given(
    capacity=st.integers(64, 1024),
    moves=st.lists(st.one_of(st.integers(0, 400), st.none()), max_size=60),
)
def test_nothing_given_out_overlaps(capacity: int, moves: list[int | None]) -> None:
    ring = Ring(capacity)
    out: deque[tuple[int, int]] = deque()
    for size in moves:
        if size is None:
            if out:
                ring.release()
                out.popleft()
            continue
        part = ring.acquire(size)
        if part is None:
            assert out or size > capacity - 64
            continue
        start = part.storage_offset()
        assert start + size <= capacity
        assert start % 64 == 0
        assert all(start >= stop or start + size <= begin for begin, stop in out)
        out.append((start, start + size))


def test_an_empty_ring_always_has_room_for_its_capacity() -> None:
    ring = Ring(640)
    for size in (640, 1, 640, 577, 320):
        assert ring.acquire(size) is not None
        ring.release()
    assert ring.acquire(641) is None


def tensors(count: int = 30) -> dict[str, torch.Tensor]:
    return {f"t{i:02}": torch.randn(i + 1, 16) for i in range(count)}


@pytest.mark.parametrize("workers", [1, 4])
def test_jobs_arrive_in_order_and_whole(tmp_path: Path, workers: int) -> None:
    held = tensors()
    with open_checkpoint(write(tmp_path, held, shards=2)) as checkpoint:
        jobs = [Job(name, tensor.nbytes) for name, tensor in held.items()]
        jobs.append(Job("t29", 3 * 64, slice(5, 8)))
        with ReadAhead(checkpoint, jobs, Ring(4096), workers) as ahead:
            for tensor in held.values():
                assert torch.equal(ahead.take(), tensor)
                ahead.give_back()
            assert torch.equal(ahead.take(), held["t29"][5:8])


def test_reading_goes_on_while_a_tensor_is_used(tmp_path: Path) -> None:
    held = tensors(4)
    with open_checkpoint(write(tmp_path, held)) as checkpoint:
        jobs = [Job(name, tensor.nbytes) for name, tensor in held.items()]
        with ReadAhead(checkpoint, jobs, Ring(4096)) as ahead:
            ahead.take()
            assert len(ahead._running) == 3


def test_an_error_while_reading_arrives_where_it_is_taken(tmp_path: Path) -> None:
    with open_checkpoint(write(tmp_path, tensors(2))) as checkpoint:
        jobs = [Job("t00", 64), Job("nonesuch", 64)]
        with ReadAhead(checkpoint, jobs, Ring(4096)) as ahead:
            ahead.take()
            with pytest.raises(CheckpointError, match="nonesuch"):
                ahead.take()


def test_leaving_waits_for_running_reads_and_drops_the_rest(tmp_path: Path) -> None:
    started: list[str] = []

    class Slow:
        def read_into(self, name: str, buffer: torch.Tensor, rows: object = None) -> torch.Tensor:
            started.append(name)
            time.sleep(0.05)
            return buffer

    jobs = [Job(str(i), 64) for i in range(20)]
    with ReadAhead(Slow(), jobs, Ring(64 * 20)) as ahead:  # type: ignore[arg-type]
        ahead.take()
    assert len(started) < 20
    assert not any(t.name.startswith("quantload-read") for t in threading.enumerate())
