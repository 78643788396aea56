"""One row of the demo: load a model in a process of its own, and measure it.

Reads the task as JSON from its only argument, prints the figures as JSON in its
last line. `benchmarks/` is on the path: the demo puts it there.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from _common import MB, Meter
from _perplexity import held_out_windows, perplexity

PROMPT = 'def read_json(path):\n    """'
NEW_TOKENS = 48


def load(task: dict[str, Any]) -> Any:
    import quantload

    return quantload.load_model(
        task["checkpoint"],
        quantization_config=task["config"],
        device_map=task["device"],
        progress=False,
    ).eval()


def generate(model: Any, tokenizer: Any, new_tokens: int) -> tuple[str, float]:
    """Greedy text after the prompt, and new tokens per second."""
    inputs = tokenizer(PROMPT, return_tensors="pt").to(model.device)
    start = time.perf_counter()
    ids = model.generate(
        **inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False
    )
    seconds = time.perf_counter() - start
    return str(tokenizer.decode(ids[0], skip_special_tokens=True)), new_tokens / seconds


def measure(task: dict[str, Any]) -> dict[str, Any]:
    import torch
    from transformers import AutoTokenizer

    meter = Meter()
    load(task)  # once for the imports, which are not what is measured
    with meter.phase("load"):
        model = load(task)
        if task["device"] == "cuda":
            torch.cuda.synchronize()
    weights = model.get_memory_footprint()
    if task["device"] == "cpu":
        model.float()  # packed weights stay as they are; many CPUs are slow in bfloat16
    folder = Path(task["data"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    windows = held_out_windows(folder, tokenizer, task["windows"])
    quality = perplexity(model, windows)
    generate(model, tokenizer, 4)
    text, speed = generate(model, tokenizer, NEW_TOKENS)
    return {
        "weights_mb": weights / MB,
        "load_s": meter.figures["load_s"],
        "load_peak_mb": meter.figures["load_peak_mb"],
        "perplexity": quality,
        "tokens_per_s": speed,
        "text": text,
    }


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(json.dumps(measure(json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
