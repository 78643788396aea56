"""End to end on a real model: load, and predict held-out text as well as it should."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import quantload

CONTEXT = 512


def windows(folder: Path, count: int) -> torch.Tensor:
    """Windows of the held-out files by the protocol of `tests/data/README.md`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stream: list[int] = []
    with lzma.open(folder / "held_out.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            tokens = tokenizer(json.loads(line)["text"], add_special_tokens=False)["input_ids"]
            stream += [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id]
    return torch.tensor(stream[: count * CONTEXT + 1]).unfold(0, CONTEXT + 1, CONTEXT)


@torch.inference_mode()
def perplexity(model: Any, text: torch.Tensor) -> float:
    total = 0.0
    for part in text.split(8):
        logits = model(part[:, :-1], use_cache=False).logits.float()
        targets = part[:, 1:].reshape(-1)
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets, reduction="sum"
        ).item()
    return math.exp(total / text[:, 1:].numel())


def load(folder: Path, config: dict[str, Any] | None) -> Any:
    # float32 for what is not packed: many CPUs are slow in bfloat16
    return quantload.load_model(folder, quantization_config=config, dtype=torch.float32)


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}
INT8 = {"load_in_8bit": True}


@pytest.mark.parametrize(
    ("config", "limit"), [(None, 1.0), (INT8, 1.01), (NF4, 1.15)], ids=["float", "int8", "nf4"]
)
def test_twelve_windows(demo_model: Path, config: dict[str, Any] | None, limit: float) -> None:
    text = windows(demo_model, 12)
    reference = perplexity(load(demo_model, None), text)
    assert 12.9 < reference < 13.2  # the first files are harder than the average
    found = perplexity(load(demo_model, config), text)
    assert reference * 0.99 < found <= reference * limit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "low", "high"),
    [(None, 0.999, 1.001), (INT8, 0.999, 1.01), (NF4, 1.0, 1.15)],
    ids=["float", "int8", "nf4"],
)
def test_the_whole_protocol(
    demo_model: Path, config: dict[str, Any] | None, low: float, high: float
) -> None:
    """The figure the model came with: 9.4695 in bf16."""
    known = json.loads((demo_model / "eval.json").read_text())["held_out_ppl_bf16"]
    found = perplexity(load(demo_model, config), windows(demo_model, 256))
    assert known * low < found < known * high
