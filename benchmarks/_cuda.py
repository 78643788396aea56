"""What the benchmarks of CUDA kernels share: times in captured graphs, cuBLAS, compiling.

A time is that of one call among many in a replayed CUDA graph, with a different copy of the
weight each time, more of them than the L2 cache holds; the median over replays, in
microseconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

OUT = Path(__file__).resolve().parents[1] / "out" / "benchmarks"
COLD = 200_000_000
"""Bytes of weights that take turns; the L2 cache of the largest devices has a third of it."""
Call = Callable[[], object]
Job = TypeVar("Job")


def microseconds(calls: Sequence[Call], samples: int = 5, budget: float = 4000.0) -> float:
    """Time of a call, when `calls` take turns in a replayed graph.

    Args:
        calls: what is captured, each at least once.
        samples: replays are timed so often.
        budget: least time of a sample.
    """
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
    stream.synchronize()
    turns = [*calls] * -(-20 // len(calls))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in turns:
            call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def replays(count: int) -> float:
        begin.record()
        for _ in range(count):
            graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1000

    replays(1)
    count = max(1, int(budget / max(replays(1), 1.0)))
    found = statistics.median(replays(count) for _ in range(samples))
    return found / count / len(turns)


def copies(nbytes: int) -> int:
    """How many copies of a weight are cold when their turn comes."""
    return max(2, -(-COLD // nbytes))


def relative_error(y: torch.Tensor, right: torch.Tensor) -> float:
    """Distance of a product from the right one (float64), over the size of that."""
    return float((y.double() - right).norm() / right.norm())


def dense_weights(out: int, into: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """As many float weights as are cold in turns."""
    count = copies(2 * out * into)
    return [torch.randn(out, into, device="cuda", dtype=dtype) for _ in range(count)]


def cublas(shapes: Sequence[tuple[int, int]], counts: Sequence[int]) -> dict[str, float]:
    """Microseconds of float16 products, by `"{out}x{into} {rows}"`."""
    found = {}
    for out, into in shapes:
        dense = dense_weights(out, into, torch.float16)
        for count in counts:
            x = torch.randn(count, into, device="cuda", dtype=torch.float16)
            found[f"{out}x{into} {count}"] = microseconds(
                [lambda w=w, x=x: F.linear(x, w) for w in dense]
            )
    return found


def ceilings() -> dict[str, float]:
    """Measured copy bandwidth and product rate: what no kernel can beat by much."""
    source = torch.empty(1 << 31, dtype=torch.uint8, device="cuda").random_(0, 255)
    target = torch.empty_like(source)
    copied = microseconds([lambda: target.copy_(source)], budget=20000)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    multiplied = microseconds([lambda: F.linear(a, b)], budget=50000)
    return {"copy_tb_s": 2 * (1 << 31) / copied / 1e6, "tflop_s": 2 * 8192**3 / multiplied / 1e6}


def compile_all(compile_one: Callable[[Job], str], jobs: Sequence[Job], each: int = 4) -> None:
    """Compile in many processes, about `each` jobs or more in one.

    Args:
        compile_one: a function of a module; returns what went wrong, or nothing.
        jobs: what it is called with.
        each: how many jobs are worth a process.
    """
    count = min(len(os.sched_getaffinity(0)), 1 + len(jobs) // each)
    print(f"compiling {len(jobs)} variants", flush=True)
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        for failed in pool.imap_unordered(compile_one, jobs, chunksize=2):
            if failed:
                print(failed, flush=True)


def pair(text: str) -> tuple[int, int]:
    """`OUTxIN` as two numbers."""
    out, into = text.split("x")
    return int(out), int(into)


def ready(out: Path) -> None:
    """Make the folder of the results, on a machine that can do it.

    Raises:
        SystemExit: without a CUDA device.
    """
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device")
    out.mkdir(parents=True, exist_ok=True)


def device() -> dict[str, object]:
    """Where the figures come from."""
    return {"device": torch.cuda.get_device_name(), "torch": torch.__version__}


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Results as JSON."""
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
