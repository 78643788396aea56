"""GGUF files of Mixtral, Qwen2-MoE and Qwen3-MoE: every expert is a part of the mapped blocks."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quantload
from quantload import CheckpointError, load_model
from quantload.errors import UnsupportedOperationError
from quantload.modules import QuantizedExperts, QuantizedLinear, hosts_of
from quantload_gguf import open_gguf

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")
_spec = importlib.util.spec_from_file_location(
    "gguf_converter", Path(__file__).parents[2] / "plugins" / "gguf" / "converter.py"
)
assert _spec is not None
assert _spec.loader is not None
converter = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(converter)

SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
SPARSE = {"num_experts": 4, "moe_intermediate_size": 32}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mixtral": ("llama", "MixtralForCausalLM", {"num_local_experts": 4}),
    "qwen2-moe": (
        "qwen2moe",
        "Qwen2MoeForCausalLM",
        {**SPARSE, "shared_expert_intermediate_size": 64, "norm_topk_prob": False},
    ),
    "qwen3-moe": ("qwen3moe", "Qwen3MoeForCausalLM", {**SPARSE, "norm_topk_prob": True}),
}
STACKS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")


def original(kind: str, **more: Any) -> Any:
    _, name, settings = MODELS[kind]
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    model: Any = cls(cls.config_class(**{**SMALL, **settings, **more})).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def written(kind: str, path: Path, type_: str = "Q4_0", **options: Any) -> Path:
    found: Path = converter.convert(original(kind), MODELS[kind][0], path, type_, **options)
    return path if path.exists() else found


@torch.no_grad()
def logits(model: Any) -> Tensor:
    ids = torch.randint(3, 96, (2, 7), generator=torch.Generator().manual_seed(1))
    found: Tensor = model(ids).logits.float()
    return found


def floated(model: Any) -> Any:
    twin: Any = quantload.dequantize(copy.deepcopy(model), torch.float32)
    twin.set_experts_implementation("eager")
    return twin


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def test_the_experts_are_parts_of_the_mapped_file(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path / "m.gguf")
    model = load_model(path, dtype=torch.float32, kernel="reference")
    for layer in model.model.layers:
        assert isinstance(layer.mlp.experts, QuantizedExperts)
        hosts = dict(hosts_of(layer.mlp.experts))
        for part in ("gate_proj", "up_proj", "down_proj"):
            blocks = [hosts[f"{number}.{part}"].weight.storage()["blocks"] for number in range(4)]
            starts = [block.data_ptr() for block in blocks]
            assert starts == [starts[0] + number * blocks[0].nbytes for number in range(4)]
    assert model.get_memory_footprint() < 1.05 * path.stat().st_size


def test_the_logits_are_those_of_the_dequantized_model(kind: str, tmp_path: Path) -> None:
    model = load_model(written(kind, tmp_path / "m.gguf"), dtype=torch.float32)
    torch.testing.assert_close(logits(model), logits(floated(model)), atol=1e-5, rtol=1e-5)
    exact = logits(original(kind))
    assert torch.cosine_similarity(logits(model).flatten(), exact.flatten(), dim=0) > 0.97


@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
def test_blocks_of_every_expert_are_those_of_the_file(order: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    written("qwen3-moe", path, endianess=gguf.GGUFEndian[order])
    model = load_model(path, dtype=torch.float32)
    with quantload.open_checkpoint(path) as file, open_gguf(path) as stacks:
        for stack, part in zip(STACKS, ("gate_proj", "up_proj", "down_proj"), strict=True):
            whole = stacks.read(f"blk.1.{stack}.weight")
            for number, blocks in enumerate(whole):
                name = f"model.layers.1.mlp.experts.{number}.{part}"
                held = model.get_submodule(name).weight.canonical().storage()["blocks"]
                assert torch.equal(held, blocks)
                assert torch.equal(file.read(f"{name}.weight"), blocks)
                assert torch.equal(file.read(f"{name}.weight", rows=slice(3, 9)), blocks[3:9])


def test_saved_as_it_was_and_loaded_again(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path / "m.gguf")
    model = load_model(path, dtype=torch.float32)
    quantload.save_model(model, tmp_path / "again.gguf")
    again = load_model(tmp_path / "again.gguf", dtype=torch.float32)
    assert torch.equal(logits(again), logits(model))
    with open_gguf(path) as one, open_gguf(tmp_path / "again.gguf") as other:
        assert one.tensors.keys() == other.tensors.keys()
        for name, info in one.tensors.items():
            assert other.info(name).ggml_type == info.ggml_type
            assert torch.equal(one.read(name), other.read(name)), name


def test_quantized_on_load_and_saved_as_a_file(kind: str, tmp_path: Path) -> None:
    original(kind).save_pretrained(tmp_path / "float")
    made = load_model(
        tmp_path / "float", quantization_config={"quant_method": "gguf", "type": "Q8_0"}
    )
    quantload.save_model(made, tmp_path / "m.gguf")
    again = load_model(tmp_path / "m.gguf", dtype=torch.float32)
    assert torch.equal(logits(again), logits(made))
    with open_gguf(tmp_path / "m.gguf") as file:
        assert file.info("blk.1.ffn_up_exps.weight").ggml_type.name == "Q8_0"


def test_experts_of_several_types_are_saved_beside_each_other(tmp_path: Path) -> None:
    original("qwen3-moe").save_pretrained(tmp_path / "float")
    one = "model.layers.1.mlp.experts.2.up_proj"
    config = {"quant_method": "gguf", "type": "Q8_0", "types": {one: "Q4_0"}}
    made = load_model(tmp_path / "float", quantization_config=config)
    with pytest.raises(
        UnsupportedOperationError, match=r"several types \(Q4_0, Q8_0\).*ffn_up_exps"
    ):
        quantload.save_model(made, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()
    again = load_model(quantload.save_model(made, tmp_path / "folder"))
    assert torch.equal(logits(again), logits(made))


def test_a_file_with_a_tensor_per_expert(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacked = load_model(written(kind, tmp_path / "stacked.gguf"), dtype=torch.float32)
    tensors = converter.tensors

    def apart(arch: str, model: Any) -> dict[str, Tensor]:
        found = {}
        for name, tensor in tensors(arch, model).items():
            if "_exps." in name:
                each = name.replace("_exps.", ".{}.")
                found.update({each.format(n): own.clone() for n, own in enumerate(tensor)})
            else:
                found[name] = tensor
        return found

    monkeypatch.setattr(converter, "tensors", apart)
    model = load_model(written(kind, tmp_path / "apart.gguf"), dtype=torch.float32)
    assert isinstance(model.model.layers[0].mlp.experts, QuantizedExperts)
    assert torch.equal(logits(model), logits(stacked))


def test_projections_of_different_types(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mixed file has them; here one projection is not packed at all."""
    add = gguf.GGUFWriter.add_tensor

    def add_tensor(self: Any, name: str, array: Any, raw_dtype: Any = None) -> None:
        if name == "blk.1.ffn_up_exps.weight":
            array, raw_dtype = gguf.quants.dequantize(array, raw_dtype), None
        add(self, name, array, raw_dtype=raw_dtype)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", add_tensor)
    path = written(kind, tmp_path / "mixed.gguf")
    monkeypatch.undo()
    model = load_model(path, dtype=torch.float32)
    expert = model.model.layers[1].mlp.experts.get_submodule("2")
    assert isinstance(expert.down_proj, QuantizedLinear)
    assert type(expert.up_proj) is nn.Linear
    whole = load_model(written(kind, tmp_path / "whole.gguf"), dtype=torch.float32)
    torch.testing.assert_close(logits(model), logits(whole), atol=1e-5, rtol=1e-5)


def test_experts_on_disk_are_read_where_they_are(tmp_path: Path) -> None:
    path = written("qwen3-moe", tmp_path / "m.gguf")
    whole = load_model(path, dtype=torch.float32, kernel="reference")
    loaded = load_model(
        path,
        dtype=torch.float32,
        kernel="reference",
        device_map={"model.layers.1": "disk", "": "cpu"},
        offload_folder=tmp_path / "offload",
    )
    assert torch.equal(logits(loaded), logits(whole))


def test_a_stack_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = converter.tensors

    def flat(arch: str, model: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = tensors(arch, model)
        name = "blk.1.ffn_up_exps.weight"
        return {**found, name: found[name].flatten(0, 1)}

    monkeypatch.setattr(converter, "tensors", flat)
    path = written("qwen3-moe", tmp_path / "m.gguf")
    with pytest.raises(
        CheckpointError, match=r"missing: model\.layers\.1\.mlp\.experts\.0\.up_proj"
    ):
        load_model(path)
