"""One row of the demo: load a model and measure it. Runs in a process of its own.

`benchmarks/` is on the path: the demo puts it there.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from _common import MB, Meter
from _perplexity import held_out_windows, perplexity
from transformers import AutoTokenizer

import quantload
from quantload import AutoHfQuantizer
from quantload.plugin import ModuleSpec, WeightQuantizer

PROMPT = 'def read_json(path):\n    """'
NEW_TOKENS = 48


def load(task: dict[str, Any], dtype: Any = "auto") -> Any:
    return quantload.load_model(
        task["checkpoint"],
        quantization_config=task["config"],
        dtype=dtype,
        device_map=task["device"],
        progress=False,
    ).eval()


def warm_up(task: dict[str, Any]) -> None:
    """Import everything that a load imports, for that is not what is measured."""
    load({**task, "config": None})
    if task["config"]:
        quantizer = AutoHfQuantizer.from_config(task["config"], pre_quantized=False)
        if isinstance(quantizer, WeightQuantizer):
            spec = ModuleSpec("warm-up", shape=(256, 256), dtype=torch.float32)
            quantizer.quantize(spec, torch.randn(256, 256), task["device"])


def computing_in_float32(model: Any, task: dict[str, Any]) -> Any:
    """The same packed weights, the rest in float32: many CPUs are slow in bfloat16."""
    with tempfile.TemporaryDirectory() as folder:
        quantload.save_model(model, folder)
        saved = {**task, "checkpoint": folder, "config": None}
        return load(saved, torch.float32)


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
    """The figures of one way to load the model.

    Args:
        task: `checkpoint` and `config` for the loader, `device`, `windows` (how many),
            and `data`, the folder with the tokenizer and the held-out text.
    """
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    meter = Meter()
    warm_up(task)
    with meter.phase("load"):
        model = load(task)
        if task["device"] == "cuda":
            torch.cuda.synchronize()
    weights = model.get_memory_footprint()
    if task["device"] == "cpu":
        model = computing_in_float32(model, task)
    folder = Path(task["data"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    quality = perplexity(model, held_out_windows(folder, tokenizer, task["windows"]))
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
