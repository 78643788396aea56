"""accelerate: sizes that count packed bytes, dispatching, and offloading to CPU and disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from accelerate import cpu_offload, disk_offload, dispatch_model, infer_auto_device_map
from accelerate.utils import compute_module_sizes

import quantload
from quantload.plugin import PackedWeight

SPLIT: dict[str, Any] = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "cpu",
    "model.layers.3": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}


@pytest.fixture
def model(folder_of: Callable[[str], Path], method: str) -> Any:
    return quantload.load_model(folder_of(method), dtype=torch.float32)


def logits(model: Any, batch: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(batch[:2]).logits


def test_the_size_of_a_module_is_that_of_its_packed_bytes(model: Any) -> None:
    sizes = compute_module_sizes(model)
    for name, module in model.named_modules():
        if isinstance(module, PackedWeight):
            assert sizes[name] == module.nbytes
    assert sizes[""] == model.get_memory_footprint()
    layer = model.model.layers[0]
    assert sizes["model.layers.0"] == sum(t.nbytes for t in layer.state_dict().values())


def test_an_automatic_map_counts_packed_bytes_to_the_last(model: Any) -> None:
    whole = compute_module_sizes(model)[""]

    def places(limit: int) -> set[str]:
        limits = {"cpu": limit, "disk": 1 << 30}
        found = infer_auto_device_map(
            model, max_memory=limits, no_split_module_classes=["LlamaDecoderLayer"]
        )
        return set(found.values())

    assert places(whole) == {"cpu"}
    assert places(whole - 1) == {"cpu", "disk"}


def test_dispatched_over_memory_and_disk_it_computes_the_same(
    model: Any, batch: torch.Tensor, tmp_path: Path
) -> None:
    wanted = logits(model, batch)
    dispatched = dispatch_model(model, SPLIT, offload_dir=str(tmp_path))
    assert dispatched.model.layers[1].mlp.down_proj.weight.is_meta
    assert not dispatched.model.layers[2].mlp.down_proj.weight.is_meta
    for _ in range(2):
        assert torch.equal(logits(dispatched, batch), wanted)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_whole_it_computes_the_same(
    model: Any, batch: torch.Tensor, tmp_path: Path, where: str
) -> None:
    wanted = logits(model, batch)
    cpu = torch.device("cpu")
    if where == "cpu":
        cpu_offload(model, execution_device=cpu)
    else:
        disk_offload(model, str(tmp_path), execution_device=cpu)
    packed = [module for module in model.modules() if isinstance(module, PackedWeight)]
    assert packed
    assert all(weight.is_meta for weight in packed)
    for _ in range(2):
        assert torch.equal(logits(model, batch), wanted)
    assert all(weight.is_meta for weight in packed)
