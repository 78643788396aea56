"""Held-out perplexity by the protocol of `tests/data/README.md`."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

CONTEXT = 512
FULL = 256
"""Windows of the whole protocol; fewer give the same figure with more noise."""


def held_out_windows(folder: Path, tokenizer: Any, windows: int = FULL) -> torch.Tensor:
    """The first windows of the held-out files, `[windows, CONTEXT + 1]`, int64.

    The files follow each other as one stream, each between `<s>` and `</s>`;
    neighbours share a token, the last target of one and the first input of the next.
    """
    wanted = windows * CONTEXT + 1
    stream: list[int] = []
    with lzma.open(folder / "held_out.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"]
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            stream += [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id]
            if len(stream) >= wanted:
                break
    available = (len(stream) - 1) // CONTEXT
    if available < windows:
        raise ValueError(f"{folder} has {available} held-out windows, {windows} were asked for")
    return torch.tensor(stream[:wanted]).unfold(0, CONTEXT + 1, CONTEXT)


@torch.inference_mode()
def perplexity(model: Any, windows: torch.Tensor, batch: int = 8) -> float:
    """`exp` of the mean negative log-likelihood of every token of the windows."""
    total = 0.0
    for chunk in torch.split(windows, batch):
        logits = model(chunk[:, :-1].to(model.device), use_cache=False).logits
        targets = chunk[:, 1:].reshape(-1).to(logits.device)
        total += F.cross_entropy(logits.float().flatten(0, 1), targets, reduction="sum").item()
    return math.exp(total / (windows.shape[0] * CONTEXT))
