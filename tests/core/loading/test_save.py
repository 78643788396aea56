"""`save_model` of modules that `load_into` loaded, without transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nets import IDS, real, skeleton, tensors_of, write
from rowwise import rowwise_tensors
from safetensors.torch import load_file
from torch import Tensor, nn

import quantload
from quantload import load_into, save_model
from quantload.modules import hosts_of

pytestmark = pytest.mark.usefixtures("rowwise")

METHOD = {"quant_method": "rowwise"}


def contents(folder: Path) -> dict[str, Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A checkpoint with a packed embedding, tied head, and companions."""
    model = real(tied=True)
    tensors = {f"net.{name}": tensor for name, tensor in tensors_of(model).items()}
    for module in ("embed", "blocks.0.up", "blocks.1.down"):
        tensors |= rowwise_tensors(f"net.{module}", tensors.pop(f"net.{module}.weight"))
    config = {"quantization_config": {**METHOD, "note": "kept"}, "made_by": "somebody"}
    folder = write(tmp_path / "packed", tensors, config, shards=2)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("hello")
    (folder / "README.md").write_text("not a companion")
    return folder


def load(folder: Path) -> nn.Module:
    module = skeleton(tied=True)
    load_into(module, folder, rename=lambda name: name.removeprefix("net."))
    return module


def test_what_was_loaded_and_saved_is_equal_tensor_for_tensor(packed: Path, tmp_path: Path) -> None:
    model = load(packed)
    model(IDS)
    save_model(model, tmp_path / "again", max_shard_size="2KB")
    assert_equal(contents(tmp_path / "again"), contents(packed))
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1


def test_config_and_companions_come_along(packed: Path, tmp_path: Path) -> None:
    again = save_model(load(packed), tmp_path / "again")
    config = json.loads((again / "config.json").read_text())
    assert config["made_by"] == "somebody"
    assert config["quantization_config"]["quant_method"] == "rowwise"
    assert config["quantization_config"]["note"] == "kept"
    assert (again / "tokenizer.json").exists()
    assert (again / "chat_template.jinja").read_text() == "hello"
    assert not (again / "README.md").exists()


def test_saving_over_the_folder_it_was_loaded_from(packed: Path) -> None:
    before = contents(packed)
    model = load(packed)
    expected = model(IDS)
    save_model(model, packed)
    assert_equal(contents(packed), before)
    assert torch.equal(model(IDS), expected)
    assert torch.equal(load(packed)(IDS), expected)


def test_quantized_on_load_and_saved_is_read_as_packed(tmp_path: Path) -> None:
    write(tmp_path / "float", tensors_of(real()), {"made_by": "somebody"})
    model = skeleton()
    load_into(model, tmp_path / "float", quantization_config=METHOD)
    save_model(model, tmp_path / "packed")
    names = contents(tmp_path / "packed")
    assert "blocks.0.up.codes" in names
    assert "blocks.0.up.weight" not in names
    again = skeleton()
    load_into(again, tmp_path / "packed")
    assert [n for n, _ in hosts_of(again)] == [n for n, _ in hosts_of(model)]
    assert torch.equal(again(IDS), model(IDS))


def test_a_dequantized_model_is_saved_float(packed: Path, tmp_path: Path) -> None:
    model = load(packed)
    expected = model(IDS)
    quantload.dequantize(model)
    again = save_model(model, tmp_path / "float")
    assert "quantization_config" not in json.loads((again / "config.json").read_text())
    names = contents(again)
    assert {"net.embed.weight", "net.blocks.0.up.weight"} <= set(names)
    assert not any(name.endswith("codes") for name in names)
    assert torch.equal(load(again)(IDS), expected)


def test_offloaded_weights_are_fetched_for_saving(packed: Path, tmp_path: Path) -> None:
    model = skeleton(tied=True)
    load_into(
        model,
        packed,
        rename=lambda name: name.removeprefix("net."),
        device_map={"blocks": "disk", "": "cpu"},
        offload_folder=tmp_path / "offload",
    )
    assert model.blocks[0].norm.weight.is_meta
    save_model(model, tmp_path / "again")
    assert_equal(contents(tmp_path / "again"), contents(packed))
    assert model.blocks[0].norm.weight.is_meta


def test_a_plain_model_that_was_never_loaded_can_be_saved(tmp_path: Path) -> None:
    model = real(tied=True)
    save_model(model, tmp_path / "plain")
    assert_equal(contents(tmp_path / "plain"), tensors_of(model))


def test_a_skeleton_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(quantload.UnsupportedOperationError, match="never loaded"):
        save_model(skeleton(), tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_packed_weights_of_unknown_method_are_refused(packed: Path, tmp_path: Path) -> None:
    model = load(packed)
    del model._quantload
    with pytest.raises(quantload.UnsupportedOperationError, match="by which method"):
        save_model(model, tmp_path / "no")
