"""Checkpoints of experts as other programs write them: read, run, and written back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import CHECKPOINTS, write
from models import assert_same_tensors, floated, logits, tensors
from torch import nn

import quantload
from quantload.modules import QuantizedExperts, hosts_of

NAMES = list(CHECKPOINTS)


@pytest.fixture(scope="module", params=NAMES)
def checkpoint(request: Any, tmp_path_factory: Any) -> tuple[str, Path, Any]:
    """Name, folder, and the float model that it stands for."""
    folder = tmp_path_factory.mktemp("foreign")
    return request.param, folder, write(request.param, folder)


def test_the_logits_are_those_of_what_the_file_stands_for(
    checkpoint: tuple[str, Path, Any],
) -> None:
    _, folder, exact = checkpoint
    model = quantload.load_model(folder, dtype=torch.float32)
    packed = [m for m in model.modules() if isinstance(m, QuantizedExperts)]
    assert packed
    for experts in packed:
        float_layers = [m for m in experts.modules() if type(m) is nn.Linear]
        assert len(float_layers) < 4
    expected = logits(exact)
    torch.testing.assert_close(logits(model), expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(logits(floated(model)), expected, atol=2e-5, rtol=1e-4)


def test_through_the_bridge_the_logits_are_the_same_bit_for_bit(
    checkpoint: tuple[str, Path, Any],
) -> None:
    _, folder, exact = checkpoint
    direct = quantload.load_model(folder)
    with quantload.enable_transformers():
        bridged = type(exact).from_pretrained(folder)
    assert dict(hosts_of(bridged)).keys() == dict(hosts_of(direct)).keys()
    assert torch.equal(logits(bridged), logits(direct))


@pytest.mark.parametrize("way", ["load_model", "bridge"])
def test_saved_it_has_the_bytes_and_names_of_the_file(
    way: str, checkpoint: tuple[str, Path, Any], tmp_path: Path
) -> None:
    name, folder, exact = checkpoint
    if way == "bridge":
        with quantload.enable_transformers():
            model = type(exact).from_pretrained(folder)
            logits(model)
            model.save_pretrained(tmp_path)
    else:
        model = quantload.load_model(folder)
        logits(model)
        quantload.save_model(model, tmp_path)
    dropped = CHECKPOINTS[name].dropped
    first = {k: t for k, t in tensors(folder).items() if not k.endswith(dropped or ("?",))}
    assert_same_tensors(first, tensors(tmp_path))
    again = quantload.load_model(tmp_path)
    assert torch.equal(logits(again), logits(model))
