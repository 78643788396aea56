"""Where a checkpoint comes from: pickled files, a state dict, a repository in the hub's cache."""

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
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import quantload
from quantload.modules import QuantizedLinear

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(ids).logits
    return found


def _pickled(folder: Path, target: Path, parts: int = 1) -> Path:
    """The same checkpoint in files of `torch.save`."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors*"))
    held = load_file(folder / "model.safetensors")
    if parts == 1:
        torch.save(held, target / "pytorch_model.bin")
        return target
    names = [f"pytorch_model-{i + 1:05}-of-{parts:05}.bin" for i in range(parts)]
    where = {key: names[i % parts] for i, key in enumerate(held)}
    for name in names:
        torch.save({k: t for k, t in held.items() if where[k] == name}, target / name)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (target / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return target


@pytest.mark.parametrize("method", METHODS)
def test_packed_tensors_in_a_pickle_load_as_those_in_safetensors(
    method: str, packed: Callable[[str], Path], ids: Tensor, tmp_path: Path
) -> None:
    folder = _pickled(packed(method), tmp_path / "bin")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(model.model.layers[0].mlp.up_proj, QuantizedLinear)
    assert torch.equal(_logits(model, ids), _logits(quantload.load_model(packed(method)), ids))
    model.save_pretrained(tmp_path / "again")
    written = load_file(tmp_path / "again" / "model.safetensors")
    before = load_file(packed(method) / "model.safetensors")
    assert written.keys() == before.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in before.items())


def test_float_tensors_in_pickled_shards_are_quantized_on_load(
    tiny: Path, ids: Tensor, tmp_path: Path
) -> None:
    folder = _pickled(tiny, tmp_path / "bin", parts=3)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=METHODS["nf4"])
    direct = quantload.load_model(tiny, quantization_config=METHODS["nf4"])
    assert torch.equal(_logits(model, ids), _logits(direct, ids))


def test_a_pickle_of_other_things_than_tensors_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = _pickled(tiny, tmp_path / "bin")
    torch.save({"lm_head.weight": Path("code")}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)pytorch_model\.bin|weights.only"):
        AutoModelForCausalLM.from_pretrained(folder, quantization_config=METHODS["nf4"])
    torch.save({"lm_head.weight": "text"}, folder / "pytorch_model.bin")
    with pytest.raises(quantload.CheckpointError, match=r"pytorch_model\.bin: expected tensors"):
        AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=METHODS["nf4"], dtype=torch.float32
        )


def test_a_state_dict_is_refused_with_the_way_out(tiny: Path) -> None:
    config = AutoConfig.from_pretrained(tiny)
    held = load_file(tiny / "model.safetensors")
    with pytest.raises(quantload.UnsupportedOperationError, match=r"state_dict=.*save_file"):
        transformers.LlamaForCausalLM.from_pretrained(
            None, config=config, state_dict=held, quantization_config=METHODS["nf4"]
        )
    plain = transformers.LlamaForCausalLM.from_pretrained(None, config=config, state_dict=held)
    assert not getattr(plain, "is_quantized", False)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Puts a folder into a hub cache, as a download would have left it."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(name: str, folder: Path) -> None:
        place = cache / f"models--{name.replace('/', '--')}"
        snapshot, blobs = place / "snapshots" / COMMIT, place / "blobs"
        for made in (snapshot, blobs, place / "refs"):
            made.mkdir(parents=True)
        (place / "refs" / "main").write_text(COMMIT)
        for number, file in enumerate(sorted(folder.iterdir())):
            shutil.copy(file, blobs / str(number))
            (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))

    return put


@pytest.mark.parametrize("method", METHODS)
def test_an_id_of_the_hub(
    method: str, hub: Callable[[str, Path], None], packed: Callable[[str], Path], ids: Tensor
) -> None:
    hub("somebody/packed", packed(method))
    model = AutoModelForCausalLM.from_pretrained("somebody/packed")
    assert torch.equal(_logits(model, ids), _logits(quantload.load_model(packed(method)), ids))
    assert AutoConfig.from_pretrained("somebody/packed").quantization_config["quant_method"]


def test_an_id_of_the_hub_with_the_first_of_several_gguf_files(
    hub: Callable[[str, Path], None], demo_model: Path, ids: Tensor, tmp_path: Path
) -> None:
    from test_gguf_file import Q8, in_parts

    whole = quantload.load_model(demo_model, quantization_config=Q8)
    quantload.save_model(whole, tmp_path / "whole.gguf")
    (tmp_path / "parts").mkdir()
    parts = in_parts(tmp_path / "whole.gguf", tmp_path / "parts" / "parts.gguf")
    hub("somebody/gguf", tmp_path / "parts")
    first = parts[0].name
    model = AutoModelForCausalLM.from_pretrained("somebody/gguf", gguf_file=first)
    assert isinstance(model.model.layers[-1].mlp.up_proj, QuantizedLinear)
    read = quantload.load_model(tmp_path / "whole.gguf")
    assert torch.equal(_logits(model, ids), _logits(read, ids))
    config = AutoConfig.from_pretrained("somebody/gguf", gguf_file=first)
    assert config.hidden_size == whole.config.hidden_size
    tokenizer = AutoTokenizer.from_pretrained("somebody/gguf", gguf_file=first)
    theirs = AutoTokenizer.from_pretrained(demo_model)
    assert tokenizer("def main():").input_ids == theirs("def main():").input_ids


def test_a_part_that_was_never_fetched_is_named(
    hub: Callable[[str, Path], None], demo_model: Path, tmp_path: Path
) -> None:
    from test_gguf_file import Q8, in_parts

    whole = quantload.load_model(demo_model, quantization_config=Q8)
    quantload.save_model(whole, tmp_path / "whole.gguf")
    (tmp_path / "parts").mkdir()
    parts = in_parts(tmp_path / "whole.gguf", tmp_path / "parts" / "parts.gguf")
    parts[1].unlink()
    hub("somebody/half", tmp_path / "parts")
    with pytest.raises(quantload.CheckpointError, match=parts[1].name):
        AutoModelForCausalLM.from_pretrained("somebody/half", gguf_file=parts[0].name)
