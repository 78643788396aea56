"""Checkpoints in which some experts are packed, or more than experts is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from making import IN_FILE, UP, Packed
from models import floated, logits, tensors
from safetensors.torch import save_file
from torch import Tensor, nn

import quantload
from quantload import CheckpointError
from quantload.modules import QuantizedExperts, QuantizedLinear, hosts_of


def rewritten(folder: Path, target: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A copy of a checkpoint with other tensors."""
    target.mkdir()
    found = {name: tensor.clone() for name, tensor in tensors(folder).items()}
    change(found)
    save_file(found, target / "model.safetensors", {"format": "pt"})
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    return target


def test_experts_of_which_some_are_float(one: Packed, tmp_path: Path) -> None:
    name, model, folder, source = one
    layer = IN_FILE[name]
    own = tensors(source)[f"{layer}.weight"]

    def swap(found: dict[str, Tensor]) -> None:
        for key in [key for key in found if key.startswith(f"{layer}.")]:
            del found[key]
        found[f"{layer}.weight"] = own

    mixed = rewritten(folder, tmp_path / "mixed", swap)
    loaded = quantload.load_model(mixed)
    assert type(loaded.get_submodule(UP)) is nn.Linear
    assert isinstance(loaded.get_submodule(UP.replace("up", "down")), QuantizedLinear)
    twin = floated(model)
    rows = own.shape[0]
    with torch.no_grad():
        twin.model.layers[1].mlp.experts.gate_up_proj[2, rows:] = own
    torch.testing.assert_close(logits(loaded), logits(twin), atol=2e-6, rtol=1e-5)
    quantload.save_model(loaded, tmp_path / "again")
    first, second = tensors(mixed), tensors(tmp_path / "again")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_layer_whose_experts_are_all_float_keeps_the_class_it_has(
    one: Packed, tmp_path: Path
) -> None:
    name, _, folder, source = one
    start = IN_FILE[name].rpartition(".2.")[0]
    floats = tensors(source)

    def swap(found: dict[str, Tensor]) -> None:
        for key in [key for key in found if key.startswith(f"{start}.")]:
            del found[key]
        found.update({key: floats[key] for key in floats if key.startswith(f"{start}.")})

    loaded = quantload.load_model(rewritten(folder, tmp_path / "mixed", swap))
    experts = [layer.mlp.experts for layer in loaded.model.layers]
    assert isinstance(experts[0], QuantizedExperts)
    assert type(experts[1]) is type(quantload.load_model(source).model.layers[1].mlp.experts)
    quantload.save_model(loaded, tmp_path / "again")
    again = quantload.load_model(tmp_path / "again")
    assert torch.equal(logits(again), logits(loaded))
    assert tensors(tmp_path / "again").keys() == tensors(tmp_path / "mixed").keys()


def test_a_missing_expert_is_an_error_that_names_it(one: Packed, tmp_path: Path) -> None:
    name, _, folder, _ = one
    layer = IN_FILE[name]

    def drop(found: dict[str, Tensor]) -> None:
        for key in [key for key in found if key.startswith(f"{layer}.")]:
            del found[key]

    lacking = rewritten(folder, tmp_path / "lacking", drop)
    with pytest.raises(CheckpointError, match=rf"missing: {UP}\.weight"):
        quantload.load_model(lacking)


def test_a_router_that_is_packed_stays_so(one: Packed, tmp_path: Path) -> None:
    """In older classes it was a linear layer, and bitsandbytes packed it with the others."""
    name, _, _, source = one
    block = "block_sparse_moe" if name == "mixtral" else "mlp"
    floats = quantload.load_model(source)
    routers = {}
    for index, layer in enumerate(floats.model.layers):
        router = nn.Linear(64, 4, bias=False)
        router.weight = nn.Parameter(layer.mlp.gate.weight.detach().clone())
        routers[f"model.layers.{index}.{block}.gate"] = router
    made = nn.ModuleDict({key.replace(".", "/"): router for key, router in routers.items()})
    quantizer: Any = quantload.AutoHfQuantizer.from_config(
        {"load_in_8bit": True, "llm_int8_skip_modules": []}, pre_quantized=False
    )
    model = quantload.load_model(source, quantization_config={"load_in_8bit": True})
    quantload.save_model(model, tmp_path / "made")

    def pack(found: dict[str, Tensor]) -> None:
        for key, router in zip(routers, made.values(), strict=True):
            spec = quantload.quantizers.ModuleSpec(key, shape=(4, 64))
            matrix: Any = router.weight
            weight = quantizer.quantize(spec, matrix.detach())
            del found[f"{key}.weight"]
            found.update({f"{key}.{leaf}": t for leaf, t in quantizer.unpack(spec, weight).items()})

    packed = rewritten(tmp_path / "made", tmp_path / "packed", pack)
    loaded = quantload.load_model(packed)
    assert "model.layers.1.mlp.gate" in dict(hosts_of(loaded))
    assert type(loaded.model.layers[1].mlp.gate) is type(floats.model.layers[1].mlp.gate)
    torch.testing.assert_close(logits(loaded), logits(floated(loaded)), atol=2e-6, rtol=1e-5)
    quantload.save_model(loaded, tmp_path / "again")
    first, second = tensors(packed), tensors(tmp_path / "again")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
