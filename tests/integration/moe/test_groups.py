"""Experts whose weights lie together: a few choices run as a group, in one graph, on the device.

On a GPU kernels that can do it are chosen; here one of the CPU is told that it can.
"""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import quantload
from quantload.modules import QuantizedExperts, hosts_of
from quantload.weights.affine.int4_kernel import TorchInt4

transformers = pytest.importorskip("transformers")
INT4 = {"quant_method": "gptq", "bits": 4, "group_size": 32}


@pytest.fixture(autouse=True)
def _groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchInt4, "groups", True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, num_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("moe")
    model = transformers.Qwen3MoeForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def model(source: Path) -> Any:
    return quantload.load_model(source, quantization_config=INT4, kernel="torch-int4")


def experts_of(model: Any) -> QuantizedExperts:
    found: QuantizedExperts = model.model.layers[0].mlp.experts
    return found


@torch.no_grad()
def alone(experts: QuantizedExperts, *given: Tensor) -> Tensor:
    """What they give one after the other."""
    groups, experts.groups = experts.groups, None
    try:
        return experts(*given)
    finally:
        experts.groups = groups


def choices(tokens: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, 64, generator=generator).bfloat16()
    ids = torch.stack([torch.randperm(4, generator=generator)[:2] for _ in range(tokens)])
    return x, ids, torch.rand(tokens, 2, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 3, 8])
def test_a_group_gives_what_its_experts_give_one_by_one(model: Any, tokens: int) -> None:
    experts = experts_of(model)
    assert experts.groups is not None
    assert set(experts.groups) == {"gate_proj", "up_proj", "down_proj"}
    given = choices(tokens)
    ran: list[int] = []
    experts.expert = lambda number, x: ran.append(number)  # type: ignore[method-assign, assignment]
    found = experts(*given)
    assert not ran
    del experts.expert
    assert torch.equal(found, alone(experts, *given))
    away = given[1].clone()
    away[0, 0] = 4  # another process's
    assert torch.equal(experts(given[0], away, given[2]), alone(experts, given[0], away, given[2]))


def test_there_is_one_copy_of_every_weight(model: Any, source: Path) -> None:
    experts = experts_of(model)
    assert experts.groups is not None
    for part, group in experts.groups.items():
        for name, stack in group.stacks.items():
            for number in range(4):
                own = experts.get_submodule(f"{number}.{part}").weight.storage()[name]
                assert own.data_ptr() == stack[number].data_ptr()
    assert not any(".groups" in name or "stacks" in name for name in model.state_dict())


@torch.no_grad()
def test_many_choices_and_gradients_go_one_by_one(model: Any) -> None:
    experts = experts_of(model)
    given = choices(9)
    assert torch.equal(experts(*given), alone(experts, *given))
    x, ids, weights = choices(2)
    with torch.enable_grad():
        x = x.requires_grad_()
        experts(x, ids, weights).sum().backward()
    assert x.grad is not None
    assert experts.groups is not None


@torch.no_grad()
def test_copies_pickles_and_casts_are_groups_of_their_own(model: Any) -> None:
    experts, given = experts_of(model), choices()
    wanted = experts(*given)
    twin = copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(experts, buffer)
    buffer.seek(0)
    for other in (experts_of(twin), torch.load(buffer, weights_only=False)):
        assert other.groups is not None
        assert other.groups["up_proj"].weight is other.get_submodule("0.up_proj").weight
        assert torch.equal(other(*given), wanted)
    experts.to(torch.bfloat16)
    assert experts_of(model).groups is not None
    assert torch.equal(experts_of(model)(*given), wanted)


@torch.no_grad()
def test_saved_it_is_the_same(model: Any, tmp_path: Path) -> None:
    quantload.save_model(model, tmp_path)
    again = quantload.load_model(tmp_path, kernel="reference")
    assert experts_of(again).groups is None
    for name, host in hosts_of(model):
        before, after = (
            one.weight.canonical().storage() for one in (host, again.get_submodule(name))
        )
        assert all(torch.equal(before[key], after[key]) for key in before)


@torch.no_grad()
@pytest.mark.parametrize("change", ["weight", "layer", "hook", "kernel"])
def test_a_layer_that_changes_ends_the_group(model: Any, change: str) -> None:
    experts, given = experts_of(model), choices(1)
    given[1][:] = torch.tensor([[2, 0]])
    before = experts(*given)
    layer: Any = experts.get_submodule("2.up_proj")
    ran: list[int] = []
    if change == "weight":
        layer.weight = copy.deepcopy(experts.get_submodule("1.up_proj").weight)
    elif change == "layer":
        quantload.modules.set_module(experts, "2.up_proj", layer.dequantized())
    elif change == "hook":
        layer.register_forward_hook(lambda *_: ran.append(1))
    else:
        layer.weight.repack(None)
    found = experts(*given)
    assert experts.groups is None
    assert torch.equal(found, alone(experts, *given))
    assert torch.allclose(found, before, atol=0.01) == (change != "weight")
    assert bool(ran) == (change == "hook")


@torch.no_grad()
def test_a_decode_step_is_one_graph(model: Any) -> None:
    torch._dynamo.reset()
    ids = torch.arange(6).view(1, 6) + 7
    step, found = torch.compile(model, fullgraph=True, backend="aot_eager"), []
    for call in (model, step):
        cache = transformers.StaticCache(config=model.config, max_cache_len=16)
        model(ids, past_key_values=cache)
        tokens = [ids[:, :1] + n for n in range(3)]
        found.append(torch.cat([call(t, past_key_values=cache).logits for t in tokens], dim=1))
    torch.testing.assert_close(found[1], found[0], rtol=2e-2, atol=2e-2)
