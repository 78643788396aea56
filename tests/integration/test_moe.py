"""Mixtral, Qwen2-MoE and Qwen3-MoE with packed experts, by every method that can make them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import quantload
from quantload import CheckpointError
from quantload.modules import QuantizedExperts, QuantizedLinear, hosts_of

transformers = pytest.importorskip("transformers")

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
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralForCausalLM", {"num_local_experts": 4}),
    "qwen2-moe": (
        "Qwen2MoeForCausalLM",
        {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64},
    ),
    "qwen3-moe": ("Qwen3MoeForCausalLM", {"num_experts": 4, "moe_intermediate_size": 32}),
}
METHODS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "int8": {"load_in_8bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32},
    "gguf": {"quant_method": "gguf", "type": "Q8_0"},
}
IN_FILE = {  # the name of the same layer in checkpoints of the class
    "mixtral": "model.layers.1.block_sparse_moe.experts.2.w3",
    "qwen2-moe": "model.layers.1.mlp.experts.2.up_proj",
    "qwen3-moe": "model.layers.1.mlp.experts.2.up_proj",
}
UP = "model.layers.1.mlp.experts.2.up_proj"


SOME = [("mixtral", "gptq"), ("qwen2-moe", "int8"), ("qwen3-moe", "nf4")]
Packed = tuple[str, Any, Path, Path]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of float models that `save_pretrained` wrote."""
    folders = {}
    for kind, (name, settings) in MODELS.items():
        torch.manual_seed(0)
        cls = getattr(transformers, name)
        model = cls(cls.config_class(**SMALL, **settings))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        folders[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="module")
def made(originals: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Packed]:
    """What was made already: kind and method -> kind, model, its folder, the float one."""
    return {}


def make(
    made: dict[Any, Packed], originals: dict[str, Path], factory: Any, kind: str, method: str
) -> Packed:
    if (kind, method) not in made:
        source = originals[kind]
        model = quantload.load_model(source, quantization_config=dict(METHODS[method]))
        folder = factory.mktemp("packed")
        quantload.save_model(model, folder, max_shard_size="5GB")  # not as a .gguf file
        made[kind, method] = (kind, model, folder, source)
    return made[kind, method]


@pytest.fixture(params=[(kind, method) for kind in MODELS for method in METHODS], ids="-".join)
def packed(request: Any, made: Any, originals: Any, tmp_path_factory: Any) -> Packed:
    """Every model by every method: quantized while loading, and saved."""
    return make(made, originals, tmp_path_factory, *request.param)


@pytest.fixture(params=SOME, ids="-".join)
def one(request: Any, made: Any, originals: Any, tmp_path_factory: Any) -> Packed:
    """Every model by one method."""
    return make(made, originals, tmp_path_factory, *request.param)


@torch.no_grad()
def logits(model: Any, rows: int = 3) -> Tensor:
    ids = torch.randint(3, 96, (rows, 7), generator=torch.Generator().manual_seed(1))
    found: Tensor = model(ids).logits
    return found


def floated(model: Any) -> Any:
    """The same model, dequantized, running the loop of its own class."""
    twin: Any = quantload.dequantize(copy.deepcopy(model), torch.float32)
    twin.set_experts_implementation("eager")
    return twin


def tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(folder / "model.safetensors")
    return found


def rewritten(folder: Path, target: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A copy of a checkpoint with other tensors."""
    target.mkdir()
    found = {name: tensor.clone() for name, tensor in tensors(folder).items()}
    change(found)
    save_file(found, target / "model.safetensors", {"format": "pt"})
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    return target


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


def test_copies_and_casts_are_right(one: Packed) -> None:
    _, model, _, _ = one
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), logits(model))
    experts = twin.model.layers[0].mlp.experts.to(torch.bfloat16)
    x = torch.randn(5, 64, dtype=torch.bfloat16)
    ids = torch.tensor([[0, 3], [1, 2], [3, 0], [2, 1], [0, 1]])
    weights = torch.rand(5, 2)
    exact = model.model.layers[0].mlp.experts(x.float(), ids, weights)
    found = experts(x, ids, weights)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, atol=0.15, rtol=0.05)


def test_only_the_experts_that_were_chosen_run(one: Packed) -> None:
    _, model, _, _ = one
    experts = copy.deepcopy(model.model.layers[0].mlp.experts)
    ran: list[str] = []
    for name, module in experts.named_modules():
        if name.endswith("down_proj"):
            module.register_forward_hook(lambda m, x, y, name=name: ran.append(name))
    x = torch.randn(1, 64)
    experts(x, torch.tensor([[3, 1]]), torch.tensor([[0.5, 0.5]]))
    assert ran == ["1.down_proj", "3.down_proj"]
    assert not experts(x, torch.tensor([[4, 4]]), torch.ones(1, 2)).any()  # another process's


def test_the_gradient_reaches_the_input_and_the_weights_of_the_choice(
    one: Packed,
) -> None:
    _, model, _, _ = one
    ours, theirs = model.model.layers[0].mlp.experts, floated(model).model.layers[0].mlp.experts
    grads = []
    for experts in (ours, theirs):
        torch.manual_seed(2)
        x, weights = torch.randn(6, 64).requires_grad_(), torch.rand(6, 2).requires_grad_()
        ids = torch.tensor([[0, 3], [1, 2], [3, 0], [2, 1], [0, 1], [3, 2]])
        experts(x, ids, weights).square().sum().backward()
        grads.append((x.grad, weights.grad))
    torch.testing.assert_close(grads[0], grads[1], atol=1e-3, rtol=1e-4)


def test_experts_on_disk_run_right(one: Packed, tmp_path: Path) -> None:
    _, _, folder, _ = one
    for number, device_map in enumerate(
        (
            {"model.layers.0": "disk", "": "cpu"},
            {"model.layers.1.mlp.experts": "disk", "": "cpu"},
            {"model.layers.0.mlp.experts.3": "disk", "": "cpu"},
        )
    ):
        loaded = quantload.load_model(
            folder, device_map=device_map, offload_folder=tmp_path / str(number)
        )
        assert any(p.is_meta for p in loaded.parameters())
        exact = logits(quantload.load_model(folder, kernel="reference"))
        for _ in range(2):
            torch.testing.assert_close(logits(loaded), exact, atol=2e-6, rtol=1e-5)
        quantload.save_model(loaded, tmp_path / f"again{number}")
        first, second = tensors(folder), tensors(tmp_path / f"again{number}")
        assert all(torch.equal(first[key], second[key]) for key in first)


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


def test_adapters_attach_to_single_experts_and_learn(one: Packed) -> None:
    peft = pytest.importorskip("peft")
    name, model, _, _ = one
    layers = r".*\.experts\.\d+\.(up|down)_proj"
    lora = peft.LoraConfig(r=4, target_modules=layers, init_lora_weights=False)
    if name == "qwen3-moe":  # PEFT itself knows its experts as 3-D parameters only
        with pytest.raises(ValueError, match="fused into gate_up_proj"):
            peft.get_peft_model(copy.deepcopy(model), lora)
        return
    adapted = peft.get_peft_model(copy.deepcopy(model), lora)
    ids = torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(5):
        loss = adapted(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    names = [n for n, p in adapted.named_parameters() if "experts.2" in n and p.requires_grad]
    assert names


def test_automatic_device_maps_count_the_experts_as_they_are(one: Packed) -> None:
    _, model, folder, _ = one
    size = model.get_memory_footprint()
    assert size == sum(p.nbytes for p in model.parameters()) + sum(
        b.nbytes for b in model.buffers()
    )
    loaded = quantload.load_model(folder, device_map="auto", max_memory={"cpu": 2 * size})
    assert set(map(str, loaded.hf_device_map.values())) == {"cpu"}
    assert torch.equal(logits(loaded), logits(model))
