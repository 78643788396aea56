"""What experts compute, taken from what a class says of itself, is what the class computes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from models import floated, logits, original
from torch import nn

import quantload
from quantload.modules import ExpertsLayout, QuantizedExperts

pytest.importorskip("transformers")
from quantload.integrations.transformers.experts import experts_layout

CLASSES = {  # what is special about the class
    "mixtral.MixtralExperts": "",
    "gpt_oss.GptOssExperts": "transposed, interleaved, biases, a gate of its own",
    "aria.AriaExperts": "transposed",
    "nemotron_h.NemotronHExperts": "no gate",
    "muse_spark.MuseSparkExperts": "a norm after each expert",
    "deepseek_v4.DeepseekV4Experts": "a gate that is clamped",
}


class Settings:
    """A config with a small value for whatever a class asks."""

    _experts_implementation = "eager"
    moe_latent_size = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.endswith("act"):
            return "silu"
        if "expert" in name:
            return 4
        if "hidden" in name:
            return 16
        return 0.5 if name.endswith(("limit", "alpha", "eps")) else 8


@pytest.mark.parametrize("name", CLASSES)
def test_taken_apart_a_class_gives_what_its_own_loop_gives(name: str) -> None:
    folder, _, kind = name.partition(".")
    try:
        source = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    except ImportError:
        pytest.skip(f"this transformers has no {folder}")
    torch.manual_seed(0)
    module = getattr(source, kind)(Settings())
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    layout = experts_layout(module)
    assert isinstance(layout, ExpertsLayout)
    stacks = {stack: module.get_parameter(stack).detach() for stack in layout.stacks}
    width = stacks["down_proj"].shape[2 if layout.transposed else 1]
    x, weights = torch.randn(5, width), torch.rand(5, 2)
    chosen = torch.tensor([[0, 3], [1, 2], [3, 0], [2, 1], [0, 1]])
    expected = module(x, chosen, weights)
    experts = QuantizedExperts(layout, module)
    for stack, tensor in stacks.items():
        for layer, matrix in layout.split(stack, tensor):
            own: Any = experts.get_submodule(layer)
            own.weight = nn.Parameter(matrix)
    torch.testing.assert_close(experts(x, chosen, weights), expected, atol=1e-5, rtol=1e-5)
    again = experts.joined()
    assert type(again) is type(module)
    assert torch.equal(again(x, chosen, weights), expected)


def llama4() -> Any:
    torch.manual_seed(0)
    module: Any = original("llama4").model.layers[0].feed_forward.experts
    return module


def apart(module: Any) -> QuantizedExperts:
    layout = experts_layout(module)
    assert isinstance(layout, ExpertsLayout)
    stacks = {stack: module.get_parameter(stack).detach() for stack in layout.stacks}
    experts = QuantizedExperts(layout, module)
    for stack, tensor in stacks.items():
        for layer, matrix in layout.split(stack, tensor):
            own: Any = experts.get_submodule(layer)
            own.weight = nn.Parameter(matrix)
    return experts


def test_llama4_gives_every_expert_a_block_of_tokens_and_zeros_for_those_of_others() -> None:
    x = torch.randn(4, 5, 64)
    x[torch.rand(4, 5) < 0.6] = 0
    x[2] = 0  # an expert without a token
    given = []
    for experts in (llama4(), apart(llama4())):
        blocks = x.flatten(0, 1).clone().requires_grad_()
        y = experts(blocks)
        y.square().sum().backward()
        assert blocks.grad is not None
        used = blocks.detach().any(-1)
        given.append((y.detach(), blocks.grad[used]))
    torch.testing.assert_close(given[1], given[0], atol=1e-5, rtol=1e-4)
    assert apart(llama4())(torch.empty(0, 64)).shape == (0, 64)


@pytest.mark.parametrize("kind", ["olmoe", "deepseek-v3", "gpt-oss", "llama4"])
def test_models_of_other_classes_are_packed_run_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    original(kind).save_pretrained(tmp_path / "float")
    model = quantload.load_model(tmp_path / "float", quantization_config={"load_in_8bit": True})
    assert any(isinstance(m, QuantizedExperts) for m in model.modules())
    torch.testing.assert_close(logits(model), logits(floated(model)), atol=2e-6, rtol=1e-5)
    quantload.save_model(model, tmp_path / "packed")
    again = quantload.load_model(tmp_path / "packed")
    assert torch.equal(logits(again), logits(model))
    with quantload.enable_transformers():
        bridged = type(original(kind)).from_pretrained(tmp_path / "packed")
    assert any(isinstance(m, QuantizedExperts) for m in bridged.modules())
    assert torch.equal(logits(bridged), logits(model))
