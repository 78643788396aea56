"""Where the ways to multiply cross, as data."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

import torch


@cache
def _measured() -> dict[str, int]:
    text = files("quantload_kernels_cpu").joinpath("crossing.json").read_text("utf-8")
    return {str(name): int(rows) for name, rows in json.loads(text)["rows"].items()}


@cache
def rows(layout: str, dtype: torch.dtype) -> int:
    """Most rows of `x` for which the packed product is the faster one.

    Measured by `benchmarks/cpu_crossing.py`, which writes the file read here.
    """
    found = _measured()
    name = str(dtype).removeprefix("torch.")
    return found.get(f"{layout} {name}", found[name])


@cache
def decoded_dtype(dtype: torch.dtype) -> torch.dtype:
    """In what dtype a product with many rows is done.

    float16 is multiplied faster by way of float32 on a CPU, and bfloat16 where the
    processor has no products of it.
    """
    native: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype if dtype == torch.bfloat16 and native else torch.float32
