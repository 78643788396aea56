"""Packed experts on a CUDA device: Mixtral's and Qwen3-MoE's, by every method that makes them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import quantload
from quantload.modules import QuantizedExperts, hosts_of

transformers = pytest.importorskip("transformers")
AutoModelForCausalLM = transformers.AutoModelForCausalLM

SMALL = {
    "vocab_size": 96,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralForCausalLM", {"num_local_experts": 4}),
    "qwen3-moe": ("Qwen3MoeForCausalLM", {"num_experts": 8, "moe_intermediate_size": 64}),
}
METHODS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "int8": {"load_in_8bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32},
    "gguf": {"quant_method": "gguf", "type": "Q8_0"},
    "hqq": {"quant_method": "hqq", "nbits": 4, "group_size": 64},
}
BF16: dict[str, Any] = {"dtype": torch.bfloat16}
Packed = tuple[Path, Any]
"""The folder of the quantized model, and that model on the device."""


@pytest.fixture(autouse=True)
def _enabled(_strangers: None) -> Iterator[None]:
    with quantload.enable_transformers():
        yield


@pytest.fixture(
    scope="module", params=[(kind, m) for kind in MODELS for m in METHODS], ids="-".join
)
def packed(
    request: Any, _strangers: None, device: str, tmp_path_factory: pytest.TempPathFactory
) -> Packed:
    kind, method = request.param
    name, settings = MODELS[kind]
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**SMALL, **settings))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp(kind)
    model.to(torch.bfloat16).save_pretrained(folder / "float")
    made = quantload.load_model(folder / "float", quantization_config=dict(METHODS[method]))
    saved = quantload.save_model(made, folder / "packed", max_shard_size="5GB")
    return saved, quantload.load_model(saved, device_map=device, **BF16)


def ids_on(device: str, rows: int = 3) -> Tensor:
    return torch.randint(3, 96, (rows, 7), generator=torch.Generator().manual_seed(1)).to(device)


@torch.no_grad()
def logits_of(model: Any, ids: Tensor) -> Tensor:
    found: Tensor = model(ids).logits
    return found


def closeness(a: Tensor, b: Tensor) -> float:
    return torch.cosine_similarity(a.flatten().float(), b.flatten().float(), 0).item()


def stored(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(folder / "model.safetensors")
    return found


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_experts_are_packed_and_give_the_logits_of_the_dequantized_model(
    packed: Packed, device: str
) -> None:
    _, model = packed
    assert sum(isinstance(m, QuantizedExperts) for m in model.modules()) == 2
    assert {p.device.type for p in model.parameters()} == {device}
    assert "model.layers.1.mlp.experts.2.up_proj" in dict(hosts_of(model))
    twin: Any = quantload.dequantize(copy.deepcopy(model))
    twin.set_experts_implementation("eager")
    for rows in (1, 3):
        ids = ids_on(device, rows)
        assert closeness(logits_of(model, ids), logits_of(twin, ids)) > 0.995
        step = ids[:, :1]
        assert closeness(logits_of(model, step), logits_of(twin, step)) > 0.995


def test_the_bridge_gives_the_same_model_and_saves_the_same_file(
    packed: Packed, device: str, tmp_path: Path
) -> None:
    folder, model = packed
    bridged = AutoModelForCausalLM.from_pretrained(folder, device_map=device, **BF16)
    ids = ids_on(device)
    assert torch.equal(logits_of(bridged, ids), logits_of(model, ids))
    assert bridged.get_memory_footprint() == model.get_memory_footprint()
    bridged.save_pretrained(tmp_path / "theirs")
    quantload.save_model(model, tmp_path / "ours", max_shard_size="5GB")
    assert equal(stored(tmp_path / "theirs"), stored(folder))
    assert equal(stored(tmp_path / "ours"), stored(folder))


def test_some_experts_may_wait_on_the_cpu_or_on_disk(
    packed: Packed, device: str, tmp_path: Path
) -> None:
    folder, model = packed
    place: Any = 0 if device == "cuda" else "cpu"
    ids = ids_on(device)
    for away in ("cpu", "disk"):
        split = {"": place, "model.layers.0.mlp.experts.3": away, "model.layers.1": away}
        loaded = quantload.load_model(
            folder, device_map=split, offload_folder=tmp_path / away, **BF16
        )
        for _ in range(2):
            assert closeness(logits_of(loaded, ids), logits_of(model, ids)) > 0.999
        assert loaded.generate(ids[:1], max_new_tokens=3, do_sample=False).shape == (1, 10)


def test_generating_with_a_static_cache_changes_no_token(packed: Packed, device: str) -> None:
    _, model = packed
    ids = ids_on(device, 1)
    greedy: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    plain = model.generate(ids, **greedy)
    static = {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(model.generate(ids, **static, **greedy), plain)


def test_a_decode_step_runs_compiled(packed: Packed, device: str) -> None:
    torch._dynamo.reset()
    folder, _ = packed
    model: Any = quantload.load_model(folder, device_map=device, **BF16)
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    compiled = torch.compile(model)
    ids, found = ids_on(device, 1), []
    with torch.no_grad():
        for step in (model, compiled):
            cache = transformers.StaticCache(config=model.config, max_cache_len=20)
            logits = model(ids, past_key_values=cache).logits[:, -1:]
            given = []
            for token in (5, 17, 40):
                logits = step(torch.full_like(ids[:, :1], token), past_key_values=cache).logits
                given.append(logits)
            found.append(torch.cat(given, dim=1))
    assert closeness(*found) > 0.995
