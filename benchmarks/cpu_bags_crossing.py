"""Up to how many rows sums of codes beat decoding and multiplying, on this CPU.

    python benchmarks/cpu_bags_crossing.py            # prints a table
    python benchmarks/cpu_bags_crossing.py --write    # and writes the file that the kernel reads

For each width of codes in a table and each dtype: microseconds of `torch-bags` with its sums,
with its decoded blocks, and of the plain reference, which take turns on the same weights;
the quickest of many repetitions counts. A way that does not pay for a single row is left out.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from cpu_int4_crossing import quickest

from quantload.kernels import prepare
from quantload.weights.affine import AffineWeight, bags_product

TARGET = Path(bags_product.__file__).with_name("bags_crossing.json")
SHAPES = ((5632, 2048), (2048, 5632))
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 512)
GROUP = 128
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def weight(rows: int, columns: int, bits: int, dtype: torch.dtype, kernel: str) -> AffineWeight:
    groups = (rows, columns // GROUP)
    made = AffineWeight.from_codes(
        torch.randint(0, 1 << bits, (rows, columns), dtype=torch.uint8),
        torch.rand(groups).half(),
        torch.randint(0, 1 << bits, groups),
        bits=bits,
        group_size=GROUP,
        dtype=dtype,
    )
    prepare(made, kernel)
    return made


def limited(made: AffineWeight, x: torch.Tensor, limit: int) -> object:
    with mock.patch.object(bags_product, "crossing", return_value=limit):
        return made(x)


def main() -> None:
    parser = argparse.ArgumentParser(description="Where sums of codes stop paying.")
    parser.add_argument("--write", action="store_true", help="write the kernel's file")
    parser.add_argument("--repetitions", type=int, default=8)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    figures: dict[str, dict[str, dict[str, int]]] = {}
    limits: dict[str, int] = {}
    for bits in (2, 4, 8):
        for dtype in DTYPES:
            label = f"{bits} {str(dtype).removeprefix('torch.')}"
            paying = []
            for shape in SHAPES:
                plain = weight(*shape, bits, dtype, "reference")
                with mock.patch("quantload.weights.affine.bags_kernel.crossing", return_value=1):
                    packed = weight(*shape, bits, dtype, "torch-bags")
                name = f"{label} {'x'.join(map(str, shape))}"
                figures[name] = {}
                last = 0
                for rows in ROWS:
                    x = torch.randn(rows, shape[1]).to(dtype)
                    ways: dict[str, Callable[[], object]] = {
                        "decoded": functools.partial(limited, packed, x, 0),
                        "reference": functools.partial(plain, x),
                    }
                    if rows <= 24:
                        ways["sums"] = functools.partial(limited, packed, x, 1 << 30)
                    few = options.repetitions if rows <= 24 else 2
                    found = {way: round(us) for way, us in quickest(ways, few).items()}
                    figures[name][str(rows)] = found
                    if rows <= 24 and found["sums"] <= min(found["decoded"], found["reference"]):
                        last = rows
                    print(name, rows, "rows ", found, flush=True)
                paying.append(last)
            limits[label] = min(paying)
    result = {
        "rows": {label: rows for label, rows in limits.items() if rows},
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "microseconds": figures,
    }
    print(result["rows"])
    if options.write:
        TARGET.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
