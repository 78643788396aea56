"""AQLM on the CPU: where looking products up stops winning over decoding the weight.

For each number of codebooks and rows: milliseconds of both ways and of the float32
product of the decoded weight, after a check of both against float64.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from quantload.weights.autograd import linear_through
from quantload_aqlm.kernels import lookup_linear, pays
from quantload_aqlm.weights import AqlmWeight

OUT = Path(__file__).resolve().parents[1] / "out" / "benchmarks"
SHAPES = ((4096, 4096), (2048, 5632), (256, 2048))
LAYOUTS = ((1, 8), (2, 8), (4, 8), (1, 12))


def milliseconds(run: Callable[[], torch.Tensor], times: int = 7) -> float:
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def random_weight(codebooks: int, nbits: int, shape: tuple[int, int]) -> AqlmWeight:
    rows, columns = shape
    half = 1 << (nbits - 1)
    kind = torch.int8 if nbits <= 8 else torch.int16
    codes = torch.randint(-half, half, (rows, columns // 8, codebooks), dtype=kind)
    books = torch.randn(codebooks, 1 << nbits, 1, 8, dtype=torch.float16)
    return AqlmWeight(codes, books, torch.rand(rows, 1, 1, 1).half(), torch.float32)


@torch.no_grad()
def main() -> None:
    table = Table(title="AQLM, float32, milliseconds")
    for name in (
        "shape",
        "layout",
        "rows",
        "lookup",
        "decode + multiply",
        "float32 product",
        "chosen",
    ):
        table.add_column(name, justify="right")
    rows_of = []
    for shape, (codebooks, nbits) in itertools.product(SHAPES, LAYOUTS):
        weight = random_weight(codebooks, nbits, shape)
        matrix = weight.dequantize(torch.float32)
        for rows in (1, 2, 4, 8, 16):
            x = torch.randn(rows, shape[1])
            parts = (weight.codes, weight.codebooks, weight.scales, x)
            exact = x.double() @ matrix.double().T
            for result in (lookup_linear(*parts), linear_through(weight, x)):
                if (result - exact).norm() / exact.norm() > 1e-5:
                    raise SystemExit(f"{codebooks}x{nbits}, {rows} rows: wrong result")
            figures = {
                "lookup_ms": milliseconds(partial(lookup_linear, *parts)),
                "decode_ms": milliseconds(partial(linear_through, weight, x)),
                "float32_ms": milliseconds(partial(torch.mm, x, matrix.T)),
            }
            chosen = "lookup" if pays(rows, codebooks, 1 << nbits, shape[0]) else "decode"
            layout, size = f"{codebooks}x{nbits}", "x".join(map(str, shape))
            rows_of.append(
                {"shape": size, "layout": layout, "rows": rows, **figures, "chosen": chosen}
            )
            numbers = (f"{value:.1f}" for value in figures.values())
            table.add_row(size, layout, str(rows), *numbers, chosen)
    Console().print(table)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "aqlm_cpu.json").write_text(json.dumps(rows_of, indent=2) + "\n")


if __name__ == "__main__":
    main()
