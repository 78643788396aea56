"""What is wrong with a checkpoint of experts is said, with the name of the tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign
import pytest
import torch
import writers
from models import logits, tensors
from safetensors.torch import save_file
from torch import Tensor

import quantload
from quantload import CheckpointError, UnsupportedOperationError

LEAVES = ("qweight", "qzeros", "scales")
EXPERTS = "model.layers.1.block_sparse_moe.experts"
Change = Callable[[dict[str, Tensor]], None]


def another_name(found: dict[str, Tensor]) -> None:
    for leaf in LEAVES:
        name = f"model.layers.1.mlp.experts.2.gate_proj.{leaf}"
        found[name] = found[f"{EXPERTS}.1.w1.{leaf}"].clone()


def float_as_well(found: dict[str, Tensor]) -> None:
    found[f"{EXPERTS}.2.w1.weight"] = torch.zeros(96, 64, dtype=torch.float16)


def stack_as_well(found: dict[str, Tensor]) -> None:
    found["model.layers.1.mlp.experts.gate_up_proj"] = torch.zeros(4, 192, 64)


def too_many(found: dict[str, Tensor]) -> None:
    for leaf in LEAVES:
        found[f"{EXPERTS}.7.w1.{leaf}"] = found[f"{EXPERTS}.1.w1.{leaf}"].clone()


def no_scales(found: dict[str, Tensor]) -> None:
    del found[f"{EXPERTS}.2.w3.scales"]


def no_layer(found: dict[str, Tensor]) -> None:
    for leaf in LEAVES:
        del found[f"{EXPERTS}.2.w3.{leaf}"]


def another_shape(found: dict[str, Tensor]) -> None:
    for leaf in LEAVES:
        found[f"{EXPERTS}.2.w3.{leaf}"] = found[f"{EXPERTS}.2.w2.{leaf}"].clone()


WRONG: dict[str, tuple[Change, str]] = {
    "packed twice": (another_name, r"2\.w1 and .*2\.gate_proj are both packed"),
    "packed and float": (float_as_well, r"2\.w1\.weight is the weight of .* packed as well"),
    "packed and a stack": (stack_as_well, r"experts\.gate_up_proj is the weight of .* packed as"),
    "more than the config has": (too_many, r"experts\.7\.w1 is of expert 7 .* has 4 experts"),
    "without scales": (no_scales, r"2\.w3\.scales missing"),
    "without a layer": (no_layer, r"experts\.2\.up_proj"),
    "of another shape": (another_shape, r"2\.w3 is packed with shape \[64, 96\]"),
}


def change(folder: Path, how: Change) -> None:
    found = tensors(folder)
    how(found)
    whole = {name: tensor.contiguous() for name, tensor in found.items()}
    save_file(whole, folder / "model.safetensors", {"format": "pt"})


def refused(folder: Path, exact: Any, kind: type[Exception], match: str) -> None:
    """Both ways of loading raise."""
    with pytest.raises(kind, match=match):
        quantload.load_model(folder)
    with quantload.enable_transformers(), pytest.raises(kind, match=match):
        type(exact).from_pretrained(folder)


@pytest.mark.parametrize("what", WRONG)
def test_a_layer_that_is(what: str, tmp_path: Path) -> None:
    exact = foreign.write("Mixtral by AutoAWQ", tmp_path)
    how, match = WRONG[what]
    change(tmp_path, how)
    refused(tmp_path, exact, CheckpointError, match)


def test_stacks_that_are_packed_as_one(tmp_path: Path) -> None:
    exact = foreign.write("Qwen3-MoE by bitsandbytes", tmp_path)

    def stack(found: dict[str, Tensor]) -> None:
        start = "model.layers.1.mlp.experts"
        for name in [name for name in found if name.startswith(f"{start}.")]:
            del found[name]
        for name, rows, columns in (("gate_up_proj", 64, 64), ("down_proj", 64, 32)):
            packed, _ = writers.nf4(torch.randn(4 * rows, columns))
            key = "weight.quant_state.bitsandbytes__nf4"
            state = json.loads(bytes(packed.pop(key).tolist())) | {"shape": [4, rows, columns]}
            packed[key] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
            for leaf, tensor in packed.items():
                found[f"{start}.{name}{leaf.removeprefix('weight')}"] = tensor

    change(tmp_path, stack)
    refused(tmp_path, exact, UnsupportedOperationError, r"experts\.down_proj is packed as one")


@pytest.mark.parametrize("order", [None, 3])
def test_groups_that_do_not_divide_the_columns_are_read(
    order: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ragged(matrix: Tensor) -> writers.Layer:
        return writers.gptq(matrix, group=64, act_order=order)

    config = {**foreign.GPTQ, "group_size": 64, "desc_act": order is not None}
    packed = {foreign.ATTENTION: ragged, foreign.EXPERT: ragged}
    monkeypatch.setitem(foreign.CHECKPOINTS, "ragged", foreign.Foreign("mixtral", config, packed))
    exact = foreign.write("ragged", tmp_path)
    model = quantload.load_model(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(logits(model), logits(exact), atol=2e-5, rtol=1e-4)
