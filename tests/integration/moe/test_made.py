"""Mixtral, Qwen2-MoE and Qwen3-MoE with packed experts, by every method that can make them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from making import IN_FILE, Packed
from models import floated, logits, tensors

import quantload
from quantload.modules import QuantizedExperts, hosts_of


def test_every_expert_is_packed_and_the_logits_are_those_of_the_dequantized_model(
    packed: Packed,
) -> None:
    _, model, _, source = packed
    experts = [m for m in model.modules() if isinstance(m, QuantizedExperts)]
    assert len(experts) == 2
    hosts = dict(hosts_of(model))
    for number in range(4):
        for part in ("gate_proj", "up_proj", "down_proj"):
            assert f"model.layers.1.mlp.experts.{number}.{part}" in hosts
    twin = floated(model)
    assert type(twin.model.layers[1].mlp.experts).__name__.endswith("Experts")
    assert not list(hosts_of(twin))
    assert model.get_memory_footprint() < 0.5 * twin.get_memory_footprint()
    torch.testing.assert_close(logits(model), logits(twin), atol=2e-6, rtol=1e-5)
    before = logits(quantload.load_model(source))
    alike = torch.cosine_similarity(logits(model).flatten(), before.flatten(), dim=0)
    assert alike > 0.97


def test_saved_and_loaded_again_it_is_the_same_under_the_names_of_the_file(
    packed: Packed, tmp_path: Path
) -> None:
    name, model, folder, _ = packed
    again = quantload.load_model(folder)
    assert torch.equal(logits(again), logits(model))
    quantload.save_model(again, tmp_path / "again", max_shard_size="5GB")
    first, second = tensors(folder), tensors(tmp_path / "again")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert {key.rpartition(".")[0] for key in first if ".experts." in key} >= {IN_FILE[name]}
    configs = [(f / "config.json").read_text() for f in (folder, tmp_path / "again")]
    assert json.loads(configs[0]) == json.loads(configs[1])


def test_dequantized_it_is_saved_as_the_float_checkpoint_was(one: Packed, tmp_path: Path) -> None:
    _, model, folder, source = one
    for index, loaded in enumerate((model, quantload.load_model(folder))):
        twin = floated(loaded)
        twin.save_pretrained(tmp_path / f"theirs{index}")
        quantload.save_model(twin, tmp_path / f"ours{index}")
        for which in ("theirs", "ours"):
            stored = tensors(tmp_path / f"{which}{index}")
            assert stored.keys() == tensors(source).keys()
        assert torch.equal(
            logits(quantload.load_model(tmp_path / f"ours{index}")),
            logits(quantload.load_model(tmp_path / f"theirs{index}")),
        )


def test_automatic_device_maps_count_the_experts_as_they_are(one: Packed) -> None:
    _, model, folder, _ = one
    size = model.get_memory_footprint()
    assert size == sum(p.nbytes for p in model.parameters()) + sum(
        b.nbytes for b in model.buffers()
    )
    loaded = quantload.load_model(folder, device_map="auto", max_memory={"cpu": 2 * size})
    assert set(map(str, loaded.hf_device_map.values())) == {"cpu"}
    assert torch.equal(logits(loaded), logits(model))
