"""Up to how many rows torch's packed int4 product beats decoding and multiplying, on this CPU.

    python benchmarks/cpu_int4_crossing.py            # prints a table
    python benchmarks/cpu_int4_crossing.py --write    # and writes the file that the kernel reads

Both ways take turns on the same weight, and the quickest of many repetitions counts: what
a busy machine adds is not what is compared. On a machine whose cores are taken, measure
with `--threads 1`: threads that wait for each other slow the two ways unequally.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

from quantload.kernels import prepare
from quantload.weights.affine import AffineWeight, int4_product

TARGET = Path(int4_product.__file__).with_name("int4_crossing.json")
SHAPES = ((2048, 2048), (5632, 2048), (2048, 5632), (4096, 4096))
ROWS = (16, 24, 32, 40, 48, 56, 64, 80, 96)
GROUP = 128


def weight(rows: int, columns: int) -> AffineWeight:
    groups = (rows, columns // GROUP)
    made = AffineWeight.from_codes(
        torch.randint(0, 16, (rows, columns), dtype=torch.uint8),
        torch.rand(groups).half(),
        torch.randint(0, 16, groups),
        bits=4,
        group_size=GROUP,
        dtype=torch.bfloat16,
    )
    prepare(made, "torch-int4")
    return made


def quickest(ways: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Microseconds of each way; they take turns."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repetitions):
        for name, call in ways.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], 1e6 * (time.perf_counter() - start))
    return best


def measured(made: AffineWeight, rows: int, repetitions: int) -> dict[str, float]:
    x = torch.randn(rows, made.shape[1], dtype=torch.bfloat16)

    def with_crossing(limit: int) -> Callable[[], object]:
        def call() -> object:
            with mock.patch.object(int4_product, "crossing", return_value=limit):
                return made(x)

        return call

    ways = {"packed": with_crossing(1 << 30), "decoded": with_crossing(0)}
    return quickest(ways, repetitions)


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the packed product stops paying.")
    parser.add_argument("--write", action="store_true", help="write the kernel's file")
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    figures: dict[str, dict[str, dict[str, int]]] = {}
    crossings = []
    for shape in SHAPES:
        made, label = weight(*shape), "x".join(map(str, shape))
        figures[label] = {}
        last = 0
        for rows in ROWS:
            found = measured(made, rows, options.repetitions)
            figures[label][str(rows)] = {name: round(us) for name, us in found.items()}
            last = rows if found["packed"] <= found["decoded"] else last
            print(
                f"{label:>10} {rows:4d} rows  "
                + "  ".join(f"{n} {us:8.0f} us" for n, us in found.items())
            )
        crossings.append(last)
        print(f"{label:>10} packed pays up to {last} rows")
    result = {
        "rows": int(statistics.median_low(crossings)),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "microseconds": figures,
    }
    print(f"crossing: {result['rows']} rows")
    if options.write:
        TARGET.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
