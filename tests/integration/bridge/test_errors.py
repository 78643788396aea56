"""What `transformers` alone lets pass, or takes for random numbers, is an error that says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from methods import METHODS
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig

import quantload
from quantload.modules import QuantizedLinear

LAYER = "model.layers.0.mlp.up_proj"


@pytest.fixture
def changed(packed: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A packed folder with changes to its tensors or its config."""

    def change(
        method: str,
        tensors: Callable[[dict[str, Tensor]], Any] | None = None,
        config: Callable[[dict[str, Any]], Any] | None = None,
    ) -> Path:
        shutil.copytree(packed(method), tmp_path, dirs_exist_ok=True)
        if tensors is not None:
            held = load_file(tmp_path / "model.safetensors")
            tensors(held)
            save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
        if config is not None:
            said = json.loads((tmp_path / "config.json").read_text())
            config(said)
            (tmp_path / "config.json").write_text(json.dumps(said))
        return tmp_path

    return change


def test_an_unknown_method_says_what_to_install(
    changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantload.registry import hints

    monkeypatch.setattr(hints, "known_distribution", lambda *_: "quantload-nonesuch")
    folder = changed(
        "gptq", config=lambda c: c["quantization_config"].update(quant_method="nonesuch")
    )
    with pytest.raises(quantload.UnknownMethodError, match="pip install quantload-nonesuch"):
        AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(quantload.UnknownMethodError, match="pip install quantload-nonesuch"):
        AutoQuantizationConfig.from_dict({"quant_method": "nonesuch"})
    with pytest.raises(quantload.UnknownMethodError, match="pip install quantload-nonesuch"):
        AutoHfQuantizer.from_config({"quant_method": "nonesuch"})


def test_a_method_that_was_left_out_is_no_random_model(packed: Callable[[str], Path]) -> None:
    with (
        quantload.enable_transformers(only="gptq"),
        pytest.raises(quantload.UnknownMethodError, match="only="),
    ):
        AutoModelForCausalLM.from_pretrained(packed("toy8"))


@pytest.mark.parametrize(
    ("method", "leaf"),
    [("gptq", "qweight"), ("awq", "scales"), ("nf4", "weight.absmax"), ("aqlm", "codes")],
)
def test_a_lost_tensor_of_a_packed_layer(
    method: str, leaf: str, changed: Callable[..., Path]
) -> None:
    folder = changed(method, lambda tensors: tensors.pop(f"{LAYER}.{leaf}"))
    with pytest.raises(quantload.CheckpointError, match=LAYER):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight"])
def test_a_lost_float_tensor(name: str, changed: Callable[..., Path]) -> None:
    folder = changed("gptq", lambda tensors: tensors.pop(name))
    with pytest.raises(quantload.CheckpointError, match=name):
        AutoModelForCausalLM.from_pretrained(folder)


def test_another_method_than_the_bytes_are_of(changed: Callable[..., Path]) -> None:
    folder = changed("gptq", config=lambda c: c.update(quantization_config={"quant_method": "awq"}))
    with pytest.raises(quantload.CheckpointError):
        AutoModelForCausalLM.from_pretrained(folder)


def test_shapes_that_do_not_fit(changed: Callable[..., Path]) -> None:
    folder = changed("gptq", config=lambda c: c.update(intermediate_size=320))
    with pytest.raises(quantload.CheckpointError, match=r"\[256, 128\].*\[320, 128\]"):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("method", ["gptq", "nf4", "gguf"])
def test_a_float_tensor_that_does_not_fit_is_named_with_its_file(
    method: str, changed: Callable[..., Path]
) -> None:
    folder = changed(method, lambda tensors: tensors.update({"model.norm.weight": torch.ones(64)}))
    told = r"model\.norm\.weight in model\.safetensors: expected shape \[128\], found \[64\]"
    with pytest.raises(quantload.CheckpointError, match=told):
        AutoModelForCausalLM.from_pretrained(folder)
    if transformers.__version__.startswith("5.17."):
        return  # it takes the option for float models alone
    model = AutoModelForCausalLM.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert model.model.norm.weight.shape == (128,)
    assert isinstance(model.model.layers[0].mlp.up_proj, QuantizedLinear)


def test_a_tensor_to_be_quantized_that_does_not_fit_is_named(tiny: Path, tmp_path: Path) -> None:
    held = load_file(tiny / "model.safetensors")
    held[f"{LAYER}.weight"] = torch.ones(64, 128)
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(tiny / "config.json", tmp_path)
    with pytest.raises(quantload.CheckpointError, match=rf"{LAYER}\.weight in .*\[256, 128\]"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=METHODS["nf4"])


def test_what_is_no_concern_of_the_bridge_raises_as_ever(tiny: Path, tmp_path: Path) -> None:
    held = load_file(tiny / "model.safetensors")
    held["model.norm.weight"] = torch.ones(64)
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(tiny / "config.json", tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_damaged_values_are_reported_as_they_are_found(changed: Callable[..., Path]) -> None:
    groups = torch.full((128,), 99, dtype=torch.int32)
    folder = changed("gptq", lambda tensors: tensors.update({f"{LAYER}.g_idx": groups}))
    with pytest.raises(quantload.CheckpointError, match=rf"{LAYER}\.g_idx"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_configs_that_contradict_the_checkpoint(packed: Callable[[str], Path]) -> None:
    with pytest.raises(quantload.ConfigError, match="bits"):
        AutoModelForCausalLM.from_pretrained(
            packed("gptq"), quantization_config={"quant_method": "gptq", "bits": 8}
        )
    with pytest.raises(quantload.ConfigError, match="gptq"):
        AutoModelForCausalLM.from_pretrained(
            packed("gptq"), quantization_config=BitsAndBytesConfig(load_in_4bit=True)
        )


def test_renamed_tensors_load_with_a_key_mapping(
    changed: Callable[..., Path], packed: Callable[[str], Path], ids: Tensor
) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace("model.layers", "model.blocks")] = tensors.pop(name)

    folder = changed("gptq", rename)
    mapping = {r"model\.blocks": "model.layers"}
    model = AutoModelForCausalLM.from_pretrained(folder, key_mapping=mapping)
    plain = AutoModelForCausalLM.from_pretrained(packed("gptq"))
    assert isinstance(model.model.layers[0].mlp.up_proj, QuantizedLinear)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain(ids).logits)


def test_a_folder_without_weights_is_no_concern_of_the_bridge(demo_model: Path) -> None:
    assert AutoTokenizer.from_pretrained(demo_model).vocab_size > 0


def test_a_weight_that_a_hook_keeps_away_counts_as_loaded(monkeypatch):
    """accelerate hangs its hook on the packed weight itself, which is the module with tensors."""
    from types import SimpleNamespace

    from quantload.errors import CheckpointError
    from quantload.integrations.transformers.bridge import checking

    model = torch.nn.Module()
    model.layer = torch.nn.Module()
    model.layer.weight = torch.nn.Linear(2, 2, device="meta")
    model.layer.weight.is_meta = True
    monkeypatch.setattr(checking, "hosts_of", lambda model: [("layer", model.layer)])
    monkeypatch.setattr(checking, "tensors_of", lambda model: {})
    decided = SimpleNamespace(report=SimpleNamespace(source="folder", mismatched={}))
    with pytest.raises(CheckpointError, match="nothing was loaded into the packed weight of layer"):
        checking.check_loaded(model, decided, lambda name: "cpu")
    model.layer.weight._hf_hook = SimpleNamespace(offload=True)
    checking.check_loaded(model, decided, lambda name: "cpu")
