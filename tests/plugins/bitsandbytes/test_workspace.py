"""Scratch memory and threads leave no trace outside."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
import time

import pytest
import torch

from quantload_bitsandbytes.workspace import SPLIT_FROM, Workspace, carve

CPU = torch.device("cpu")


def test_a_buffer_is_used_again() -> None:
    workspace = Workspace()
    with workspace.borrow(1000, CPU) as first:
        pass
    with workspace.borrow(500, CPU) as second:
        assert second is first
        with workspace.borrow(500, CPU) as third:
            assert third is not first


def test_carved_parts_do_not_overlap() -> None:
    parts = carve(torch.zeros(4096, dtype=torch.uint8), 33, torch.float32, torch.int32, torch.uint8)
    for value, part in enumerate(parts):
        part.fill_(value + 1)
    assert [set(part.tolist()) for part in parts] == [{1}, {2}, {3}]


@pytest.fixture
def three_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_work_runs_on_threads_that_do_not_split_operations(three_threads: object) -> None:
    workspace, seen = Workspace(), []

    def work(start: int, stop: int) -> None:
        time.sleep(0.01)
        seen.append((start, stop, threading.get_ident(), torch.get_num_threads()))

    workspace.in_chunks(10, 3, work, each=SPLIT_FROM)
    assert sorted(s[:2] for s in seen) == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert threading.get_ident() not in {s[2] for s in seen}
    assert {s[3] for s in seen} == {1}
    # What others do is as it was, in this thread and in new ones.
    assert torch.get_num_threads() == 3
    found: list[int] = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert found == [3]


def test_an_error_in_the_work_comes_out(three_threads: object) -> None:
    def work(start: int, stop: int) -> None:
        raise ZeroDivisionError(start)

    with pytest.raises(ZeroDivisionError):
        Workspace().in_chunks(10, 3, work, each=SPLIT_FROM)


def test_inference_mode_reaches_the_threads(three_threads: object) -> None:
    modes = []
    with torch.inference_mode():
        Workspace().in_chunks(
            4, 1, lambda *_: modes.append(torch.is_inference_mode_enabled()), each=SPLIT_FROM
        )
    assert modes == [True] * 4


def test_little_work_is_done_right_here() -> None:
    seen: list[int] = []
    Workspace().in_chunks(4, 1, lambda *_: seen.append(threading.get_ident()), each=1)
    assert Workspace().unsplit(100, threading.get_ident) == threading.get_ident()
    assert set(seen) == {threading.get_ident()}


def test_much_work_is_done_where_torch_splits_nothing(three_threads: object) -> None:
    assert Workspace().unsplit(SPLIT_FROM, torch.get_num_threads) == 1


def test_threads_end_with_the_workspace(three_threads: object) -> None:
    workspace = Workspace()
    workspace.in_chunks(4, 1, lambda *_: None, each=SPLIT_FROM)
    named = [t for t in threading.enumerate() if t.name.startswith("quantload-quantize")]
    assert named
    del workspace
    gc.collect()
    for thread in named:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in named)


def test_copies_start_empty(three_threads: object) -> None:
    workspace = Workspace()
    workspace.in_chunks(4, 1, lambda *_: None, each=SPLIT_FROM)
    with workspace.borrow(100, CPU):
        pass
    for other in (copy.deepcopy(workspace), pickle.loads(pickle.dumps(workspace))):
        assert other.nbytes == 0
        other.in_chunks(4, 1, lambda *_: None, each=SPLIT_FROM)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_makes_threads_of_its_own(three_threads: object) -> None:
    workspace = Workspace()
    workspace.in_chunks(4, 1, lambda *_: None, each=SPLIT_FROM)
    child = os.fork()
    if child == 0:
        done: list[int] = []
        # No torch operation in the child: only that its own threads do the work.
        workspace.in_chunks(4, 1, lambda start, _: done.append(start), each=SPLIT_FROM)
        os._exit(0 if sorted(done) == [0, 1, 2, 3] else 1)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the forked process waits for threads it does not have")
