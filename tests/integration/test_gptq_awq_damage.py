"""Small folders, damaged at random: they load, or one `QuantloadError` says what is wrong."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import quantload
from quantload import CheckpointError, QuantloadError

transformers = pytest.importorskip("transformers")

MAKES: list[dict[str, Any]] = [
    {"quant_method": "gptq", "bits": 4, "group_size": 32},
    {"quant_method": "gptq", "bits": 3, "group_size": 32, "sym": False},
    {"quant_method": "awq", "group_size": 32},
    {"quant_method": "awq", "group_size": 32, "version": "gemv"},
    {"quant_method": "awq", "group_size": 64, "version": "gemv_fast"},
]
JUNK: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 5, 16, 128, 1 << 40, 1e300, "", "x", "4", [], [1], {}),
    *("gptq", "gptq_v2", "gptq_p", "marlin", "gemm", "gemv", "awq", "bitblas", ["lm_head"]),
    *({"a": 1}, {".*": {"bits": 8}}, {"-:.*": {}}, {"(": {}}),
]
MORE_KEYS = ["w_bit", "dynamic", "version", "zero_point", "pack_dtype", "rotation", "backend"]
DTYPES = [torch.int8, torch.int16, torch.int64, torch.float32, torch.float64, torch.bool]
LEAVES = ["bias", "qweight", "scales", "g_idx", "B", "s", "B_24", "scaled_zeros", "weight"]
TIMES = 80


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    root = tmp_path_factory.mktemp("folders")
    transformers.LlamaForCausalLM(config).half().save_pretrained(root / "float")
    for i, make in enumerate(MAKES):
        model = quantload.load_model(root / "float", quantization_config=make)
        quantload.save_model(model, root / str(i))
    return [root / str(i) for i in range(len(MAKES))]


def damage_bytes(folder: Path, dice: random.Random) -> str:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(dice.choice([1, 1, 3, 20])):
        data[dice.randrange(header if dice.random() < 0.8 else len(data))] = dice.randrange(256)
    if dice.random() < 0.2:
        del data[dice.randrange(len(data)) :]
    file.write_bytes(data)
    return "bytes"


def damage_tensors(folder: Path, dice: random.Random) -> str:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    name = dice.choice([name for name in tensors if "proj" in name])
    tensor = tensors.pop(name)
    other = dice.choice(["model.layers.0.mlp.up_proj", "nowhere"]) + "." + dice.choice(LEAVES)
    filled = float("nan") if tensor.is_floating_point() else dice.choice([-1, 1000, -(1 << 15)])
    changes: list[tuple[str, Tensor]] = [
        (other, tensor),
        (name, tensor[: max(0, len(tensor) - dice.choice([1, 2, len(tensor)]))].clone()),
        (name, tensor.to(dice.choice(DTYPES))),
        (name, tensor.movedim(0, -1).contiguous()),
        (name, tensor.flatten()),
        (name, torch.cat([tensor, tensor])),
        (name, torch.full_like(tensor, filled)),
        (name, tensor[..., None].contiguous()),
    ]
    how = dice.randrange(len(changes) + 1)
    if how < len(changes):
        tensors.update([changes[how]])
    save_file({key: value.clone() for key, value in tensors.items()}, file, {"format": "pt"})
    return f"{name}: change {how}"


def damage_config(folder: Path, dice: random.Random) -> str:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    part = config["quantization_config"] if dice.random() < 0.8 else config
    key, value = dice.choice([*part, *MORE_KEYS]), dice.choice(JUNK)
    part[key] = value
    text = json.dumps(config)
    file.write_text(text if dice.random() < 0.95 else text[: dice.randrange(len(text))])
    return f"{key}={value!r}"


@pytest.mark.parametrize("damage", [damage_bytes, damage_tensors, damage_config])
def test_a_damaged_folder_loads_and_runs_or_says_what_is_wrong(
    folders: list[Path], tmp_path: Path, damage: Any
) -> None:
    dice = random.Random(damage.__name__)
    refused = 0
    for number in range(TIMES):
        folder = tmp_path / str(number)
        shutil.copytree(dice.choice(folders), folder)
        what = damage(folder, dice)
        start = time.perf_counter()
        try:
            model = quantload.load_model(folder)
            with torch.no_grad():
                model(torch.arange(5)[None])
        except QuantloadError as error:
            refused += 1
            if str(folder) not in str(error):
                pytest.fail(f"{what}: which file, is not said: {error}")
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        assert time.perf_counter() - start < 5, what  # it is a second on a quiet machine
        shutil.rmtree(folder)
    assert refused > TIMES // 5


@pytest.mark.parametrize("way", ["load_model", "bridge"])
@pytest.mark.parametrize("leaf", ["bias", "scales"])
def test_what_is_wrong_with_a_layer_is_said_with_file_and_tensor(
    folders: list[Path], tmp_path: Path, leaf: str, way: str
) -> None:
    shutil.copytree(folders[0], tmp_path / "folder")
    file = tmp_path / "folder" / "model.safetensors"
    name = f"model.layers.0.mlp.down_proj.{leaf}"
    tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
    if leaf == "bias":  # which counts, and which the class has no place for
        tensors[name] = torch.ones(64, dtype=torch.float16)
    else:
        tensors[name][1, 2] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    load: Any = quantload.load_model
    if way == "bridge":
        load = transformers.AutoModelForCausalLM.from_pretrained
    with quantload.enable_transformers(), pytest.raises(CheckpointError) as caught:
        load(tmp_path / "folder")
    assert name in str(caught.value)
    assert str(file.parent) in str(caught.value)
    assert file.name in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantization_config", [1]),
        ("architectures", 3),
        ("hidden_act", "no such thing"),
        ("model_type", {"a": 1}),
        ("num_attention_heads", 0),
        ("head_dim", -1),
        ("dtype", "x"),
    ],
)
def test_a_damaged_config_json_is_named(
    folders: list[Path], tmp_path: Path, key: str, value: Any
) -> None:
    """Whatever `transformers` makes of the value."""
    folder = tmp_path / "m"
    shutil.copytree(folders[0], folder)
    config = json.loads((folder / "config.json").read_text())
    config[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        quantload.load_model(folder)
    assert str(folder) in str(caught.value)
