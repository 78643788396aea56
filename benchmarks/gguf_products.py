"""Products of ggml blocks on this CPU: both kernels, each with its two ways, and the reference.

    python benchmarks/gguf_products.py [--types Q8_0 Q4_K] [--dtype float16] [--repeat 8]

For each type and number of rows: microseconds of `ggml-int4` and `ggml-bags`, packed and
decoded, of dequantizing and multiplying, and of the float product alone. The ways take turns
on weights that are cold, as in a model; the quickest of the repetitions counts. The limits
`FEW_ROWS` of both kernels are read off it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from cpu_int4_crossing import quickest

from quantload.errors import NoKernelError
from quantload.kernels import prepare
from quantload.weights.autograd import linear_through
from quantload_gguf import GgufWeight, ggml_type
from quantload_gguf.kernels import bag_products, products, tiles

OUT = Path(__file__).resolve().parents[1] / "out" / "benchmarks"
SHAPE = (5632, 2048)
TYPES = ("Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512)


class Always(dict[Any, int]):
    """Limits that are the same for everything."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: Any) -> int:
        return self.limit

    def get(self, key: Any, default: Any = None) -> int:
        return self.limit


def blocks(name: str, rows: int, columns: int) -> torch.Tensor:
    """Random blocks whose scales are finite."""
    kind = ggml_type(name)
    found = torch.randint(0, 256, (rows * columns // kind.elements, kind.nbytes), dtype=torch.uint8)
    places = {"Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,)}
    for place in places.get(name, (0,)):
        scale = torch.full((len(found), 1), 0.01, dtype=torch.float16)
        found[:, place : place + 2] = scale.view(torch.uint8)
    return found.view(rows, -1)


def ways_of(name: str, dtype: torch.dtype, x: torch.Tensor) -> dict[str, Callable[[], object]]:
    raw = blocks(name, *SHAPE)
    plain = GgufWeight.from_blocks(raw, name, dtype=dtype)
    dense = plain.dequantize(dtype)
    ways: dict[str, Callable[[], object]] = {
        "float": lambda: F.linear(x, dense),
        "dequantized": lambda: linear_through(plain, x),
    }
    for kernel, module in (("ggml-int4", products), ("ggml-bags", bag_products)):
        weight = GgufWeight.from_blocks(raw, name, dtype=dtype)
        try:
            with (
                mock.patch.object(tiles, "tile_rows", return_value=0)
                if (kernel == "ggml-bags")
                else mock.patch.object(module, "FEW_ROWS", Always(1))
            ):
                prepare(weight, kernel)
        except NoKernelError:
            continue
        for way, limit in (("packed", 1 << 30), ("decoded", 0)):
            if way == "packed" and len(x) > 128:
                continue

            def call(
                weight: GgufWeight = weight, module: Any = module, limit: int = limit
            ) -> object:
                with mock.patch.object(module, "FEW_ROWS", Always(limit)):
                    return weight(x)

            ways[f"{kernel.removeprefix('ggml-')} {way}"] = call
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description="Products of ggml blocks.")
    parser.add_argument("--types", nargs="+", default=list(TYPES))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    dtype: torch.dtype = getattr(torch, options.dtype)
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name in options.types:
        found[name] = {}
        for rows in options.rows:
            x = torch.randn(rows, SHAPE[1]).to(dtype)
            times = quickest(ways_of(name, dtype, x), options.repeat if rows < 64 else 3)
            found[name][str(rows)] = {way: round(us) for way, us in times.items()}
            print(name, rows, "rows ", found[name][str(rows)], flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"gguf_products_{options.dtype}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
