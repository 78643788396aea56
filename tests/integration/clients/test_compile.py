"""torch.compile: a whole decode step, its cache included, is one graph with every method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import transformers

import quantload

PROMPT = 12


@pytest.fixture
def model(folder_of: Callable[[str], Path], method: str) -> Any:
    """One layer of the demo model and its head: every layer compiles as the first does."""
    found = quantload.load_model(folder_of(method), dtype=torch.float32)
    assert found.hf_quantizer.is_compileable
    found.model.layers = found.model.layers[:1]
    found.config.num_hidden_layers = 1
    return found


def decode(model: Any, step: Any, ids: torch.Tensor, count: int) -> torch.Tensor:
    """Logits of `count` greedy steps by `step`, after a prompt by the model itself."""
    cache = transformers.StaticCache(config=model.config, max_cache_len=PROMPT + count + 1)
    logits = model(ids, past_key_values=cache).logits[:, -1:]
    found = []
    for _ in range(count):
        logits = step(logits.argmax(-1), past_key_values=cache).logits
        found.append(logits)
    return torch.cat(found, dim=1)


def test_a_decode_step_has_no_break_and_gives_the_same_numbers(
    model: Any, batch: torch.Tensor
) -> None:
    torch._dynamo.reset()
    ids = batch[:1, :PROMPT]
    step = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        wanted = decode(model, model, ids, 4)
        found = decode(model, step, ids, 4)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_training_step_with_adapters_has_no_break(model: Any, batch: torch.Tensor) -> None:
    peft = pytest.importorskip("peft")
    torch._dynamo.reset()
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    ids = batch[:1, :PROMPT]
    adapted(ids, labels=ids).loss.backward()
    trained = [p for p in adapted.parameters() if p.requires_grad]
    wanted = [p.grad.clone() for p in trained]
    adapted.zero_grad()
    step = torch.compile(adapted.base_model.model, fullgraph=True, backend="aot_eager")
    step(ids, labels=ids).loss.backward()
    assert any(gradient.abs().max() > 0 for gradient in wanted)
    for parameter, gradient in zip(trained, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)
