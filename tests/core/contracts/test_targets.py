from __future__ import annotations

import pytest
import torch
from torch import nn

from quantload.quantizers.targets import kept_in_float, matches, quantizable_modules


class Tiny(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.layers = nn.ModuleList(nn.ModuleDict({"fc1": nn.Linear(4, 8)}) for _ in range(12))
        self.head = nn.Linear(4, 10, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def get_output_embeddings(self) -> nn.Module:
        return self.head


@pytest.mark.parametrize(
    ("name", "entry", "expected"),
    [
        ("layers.1.fc1", "layers.1", True),
        ("layers.11.fc1", "layers.1", False),
        ("layers.11.fc1", "layers.*", True),
        ("mlp.gate_proj", "mlp.gate", False),
        ("model.layers.3.fc1", "fc1", True),
        ("lm_head", "lm_head.weight", True),
        ("lm_head", "head", True),
        ("a.b[0].c", "b[0].c", True),
    ],
)
def test_skip_lists_are_read_as_transformers_reads_them(name, entry, expected):
    assert matches(name, [entry]) is expected


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_stays_float_and_every_other_linear_layer_is_taken(tied):
    model = Tiny(tied)
    assert "head" in kept_in_float(model)
    found = quantizable_modules(model)
    assert sorted(found) == sorted(f"layers.{i}.fc1" for i in range(12))
    assert found["layers.0.fc1"].shape == (8, 4)


def test_a_skip_list_takes_modules_out():
    assert "layers.3.fc1" not in quantizable_modules(Tiny(tied=False), ["layers.3"])
    assert "layers.11.fc1" in quantizable_modules(Tiny(tied=False), ["layers.1"])


def test_subclasses_with_a_forward_of_their_own_are_left_alone():
    class Odd(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    model = nn.Sequential(Odd(2, 2), nn.Linear(2, 2))
    assert list(quantizable_modules(model)) == ["1"]


def test_a_bare_model_without_a_head_is_taken_whole():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert sorted(quantizable_modules(model)) == ["0", "1"]
