"""Running, copying and training through packed experts."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from making import Packed
from models import floated, logits, tensors

import quantload


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


def test_no_token_and_a_single_one(one: Packed) -> None:
    _, model, _, _ = one
    ours, theirs = model.model.layers[0].mlp.experts, floated(model).model.layers[0].mlp.experts
    empty = ours(torch.empty(0, 64), torch.empty(0, 2, dtype=torch.long), torch.empty(0, 2))
    assert empty.shape == (0, 64)
    x, chosen, weights = torch.randn(1, 64), torch.tensor([[2, 0]]), torch.tensor([[0.3, 0.7]])
    found, expected = ours(x, chosen, weights), theirs(x, chosen, weights)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_token_alone_gives_what_it_gives_among_others(one: Packed) -> None:
    _, model, _, _ = one
    experts = model.model.layers[0].mlp.experts
    twice = torch.tensor([[3, 0, 2, 1], [3, 0, 2, 1]])
    x, weights = torch.randn(2, 64), torch.rand(2, 4)
    grads, outputs = [], []
    for rows in (1, 2):  # the second path sorts the tokens by expert
        own = x[:1].expand(rows, 64).clone().requires_grad_()
        y = experts(own, twice[:rows], weights[:1].expand(rows, 4))
        y[0].square().sum().backward()
        assert own.grad is not None
        outputs.append(y[0])
        grads.append(own.grad[0])
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-3, rtol=1e-4)
    assert not experts(x[:1], torch.tensor([[4, 4]]), weights[:1, :2]).any()


def test_gradients_are_the_same_with_checkpoints(one: Packed) -> None:
    _, model, _, _ = one
    ids = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(3))
    grads = []
    for checkpointed in (False, True):
        twin = copy.deepcopy(model).train()
        if checkpointed:
            twin.gradient_checkpointing_enable({"use_reentrant": False})
        embedded = twin.get_input_embeddings()(ids).detach().requires_grad_()
        twin(inputs_embeds=embedded, labels=ids).loss.backward()
        grads.append(embedded.grad)
    assert grads[0].abs().max() > 0
    torch.testing.assert_close(grads[0], grads[1], atol=1e-7, rtol=1e-5)
