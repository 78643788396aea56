"""Perplexity of the demo model under HQQ, beside the same groups rounded to nearest.

`python examples/third_party_plugin/scripts/perplexity.py [WINDOWS]` from a clone, in an
environment that has quantload and transformers; the package itself need not be installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "examples"), str(Path(__file__).resolve().parents[1] / "src")]

import torch  # noqa: E402  the folders come first
from _perplexity import held_out_windows, perplexity  # noqa: E402
from quantload_hqq.config import HqqConfig  # noqa: E402
from quantload_hqq.quantizer import HqqQuantizer  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

import quantload  # noqa: E402

MODEL = ROOT / "tests" / "data" / "stdlib-llama-4m"
SETTINGS = [(4, 64), (3, 64), (2, 16)]


def measured(windows: torch.Tensor, **settings: object) -> float:
    config = {"quant_method": "hqq", **settings} if settings else None
    model = quantload.load_model(
        MODEL, quantization_config=config, dtype=torch.float32, progress=False
    )
    return perplexity(model, windows)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    windows = held_out_windows(MODEL, AutoTokenizer.from_pretrained(MODEL), count)
    with quantload.register("hqq", config=HqqConfig, quantizer=HqqQuantizer, override=True):
        print(f"float: {measured(windows):.3f} over {count} windows")
        print("| bits | group | axis | rounded to nearest | HQQ |\n| --- | --- | --- | --- | --- |")
        for nbits, size in SETTINGS:
            for axis in (1, 0):
                common = {"nbits": nbits, "group_size": size, "axis": axis}
                plain = measured(windows, optimize=False, **common)
                fitted = measured(windows, **common)
                print(f"| {nbits} | {size} | {axis} | {plain:.3f} | {fitted:.3f} |", flush=True)


if __name__ == "__main__":
    main()
