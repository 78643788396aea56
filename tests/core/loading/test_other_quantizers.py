"""Methods that are not said in terms of packed weights: they change the skeleton themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import IDS, real, skeleton, tensors_of, write
from torch import Tensor, nn

import quantload
from quantload import CheckpointError, load_into
from quantload.plugin import QuantizationConfig
from quantload.quantizers.base import HfQuantizer
from quantload.verdict import Verdict


class EightBit(nn.Module):
    """A layer that keeps its integers as a parameter of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        codes = torch.empty(outputs, inputs, dtype=torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.scale = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight.float() * self.scale[:, None]).T


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnConfig(QuantizationConfig):
    quant_method = "own-modules"


class OwnQuantizer(HfQuantizer):
    finished = False

    def is_serializable(self) -> Verdict:
        return Verdict.no("not written yet")

    @property
    def is_trainable(self) -> bool:
        return False

    def preprocess_model(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        with torch.device("meta"):
            model.head = EightBit(16, 11)
        return model

    def postprocess_model(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        type(self).finished = True
        return model


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with quantload.register("own-modules", config=OwnConfig, quantizer=OwnQuantizer):
        yield


def tensors() -> dict[str, Tensor]:
    found = tensors_of(real())
    weight = found.pop("head.weight")
    scale = weight.abs().amax(1) / 127
    codes = (weight / scale[:, None]).round().to(torch.int8)
    return {**found, "head.weight": codes, "head.scale": scale}


def test_its_tensors_are_loaded_under_its_names(tmp_path: Path) -> None:
    held = tensors()
    write(tmp_path, held, {"quantization_config": {"quant_method": "own-modules"}})
    model = skeleton()
    load_into(model, tmp_path, dtype="bfloat16")
    assert isinstance(model.head, EightBit)
    assert torch.equal(model.head.weight, held["head.weight"])
    assert not model.head.weight.requires_grad
    assert model.head.scale.dtype == torch.bfloat16
    assert OwnQuantizer.finished
    model = skeleton()
    load_into(model, tmp_path)
    assert (model(IDS) - real()(IDS)).abs().max() < 0.05


def test_what_it_cannot_write_is_not_written(tmp_path: Path) -> None:
    write(tmp_path / "a", tensors(), {"quantization_config": {"quant_method": "own-modules"}})
    model = skeleton()
    load_into(model, tmp_path / "a")
    with pytest.raises(quantload.UnsupportedOperationError, match="not written yet"):
        quantload.save_model(model, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_on_failure_its_modules_are_taken_back(tmp_path: Path) -> None:
    held = tensors()
    del held["head.scale"]
    write(tmp_path, held, {"quantization_config": {"quant_method": "own-modules"}})
    model = skeleton()
    with pytest.raises(CheckpointError, match=r"missing: head\.scale"):
        load_into(model, tmp_path)
    assert type(model.head) is nn.Linear
