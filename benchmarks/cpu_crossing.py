"""Up to how many rows packed products beat decoding and multiplying, in `kernels-cpu`.

    python benchmarks/cpu_crossing.py [--types Q4_K Q8_0] [--dtypes bfloat16] [--write]

For each ggml type, dtype and number of rows: microseconds of the packed product, of runs of
rows decoded and multiplied, of `dequantize()` and a float product, and of the float product
alone, which take turns; the quickest of the repetitions counts. `--write` adds what was
measured to the file that the kernels read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from cpu_int4_crossing import quickest
from gguf_products import blocks

from quantload.kernels import prepare
from quantload_gguf import GgufWeight
from quantload_kernels_cpu import crossing, product

TARGET = Path(crossing.__file__).with_name("crossing.json")
SHAPE = (5632, 2048)
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96)


def limited(weight: GgufWeight, x: torch.Tensor, limit: int) -> Callable[[], object]:
    def call() -> object:
        with mock.patch.object(crossing, "rows", return_value=limit):
            getattr(getattr(product, "_shape", None), "cache_clear", int)()
            return weight(x)

    return call


def dequantized(weight: GgufWeight, x: torch.Tensor) -> torch.Tensor:
    """The product by way of the whole float weight."""
    return F.linear(x, weight.dequantize(x.dtype))


def main() -> None:
    parser = argparse.ArgumentParser(description="Where packed products stop paying.")
    parser.add_argument("--types", nargs="+", default=["Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16", "float32"])
    parser.add_argument("--write", action="store_true", help="write the kernels' file")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    limits: dict[str, int] = {}
    for name in options.types:
        for label in options.dtypes:
            dtype: torch.dtype = getattr(torch, label)
            weight = GgufWeight.from_blocks(blocks(name, *SHAPE), name, dtype=dtype)
            prepare(weight, "cpu-ggml")
            dense = weight.dequantize(dtype)
            paying = 0
            for rows in ROWS:
                x = torch.randn(rows, SHAPE[1]).to(dtype)
                ways: dict[str, Callable[[], object]] = {
                    "packed": limited(weight, x, 1 << 30),
                    "decoded": limited(weight, x, 0),
                    "dequantized": partial(dequantized, weight, x),
                    "float": partial(F.linear, x, dense),
                }
                found = {k: round(us) for k, us in quickest(ways, options.repetitions).items()}
                if found["packed"] <= min(found["decoded"], found["dequantized"]):
                    paying = rows
                print(name, label, rows, "rows ", found, flush=True)
            limits[f"{name} {label}"] = paying
    print(limits)
    if options.write:
        kept = json.loads(TARGET.read_text("utf-8"))["rows"]
        TARGET.write_text(json.dumps({"rows": {**kept, **limits}}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
