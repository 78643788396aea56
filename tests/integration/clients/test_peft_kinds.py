"""Kinds of adapters beside plain LoRA: what starts from the weight, and what scales it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

import peft
from test_peft import bytes_of, same, steps

import quantload
from quantload import UnsupportedOperationError

MODULES = {"target_modules": ["q_proj", "down_proj"]}
STARTING: dict[str, Any] = {
    "pissa": peft.LoraConfig(init_lora_weights="pissa", **MODULES),
    "olora": peft.LoraConfig(init_lora_weights="olora", **MODULES),
}
KINDS: dict[str, Any] = {
    "dora": peft.LoraConfig(use_dora=True, **MODULES),
    "rslora": peft.LoraConfig(use_rslora=True, **MODULES),
    "ia3": peft.IA3Config(feedforward_modules=["down_proj"], **MODULES),
    "loha": peft.LoHaConfig(**MODULES),
    "lokr": peft.LoKrConfig(**MODULES),
    "oft": peft.OFTConfig(oft_block_size=32, **MODULES),
    "vera": peft.VeraConfig(target_modules=["q_proj"]),
}


@pytest.fixture(autouse=True)
def _merging() -> Iterator[None]:
    with quantload.enable_peft():
        yield


@pytest.fixture
def base(folder_of: Callable[[str], Path], request: pytest.FixtureRequest) -> Any:
    return quantload.load_model(folder_of(request.param), dtype=torch.float32)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm())


@pytest.mark.parametrize("base", ["int8", "gptq"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_is_merged_by_packing_and_taken_out_to_the_byte(
    kind: str, base: Any, batch: torch.Tensor
) -> None:
    with torch.inference_mode():
        untouched = base(batch).logits
    before = bytes_of(base)
    torch.manual_seed(0)
    model = peft.get_peft_model(base, KINDS[kind]).eval()
    with torch.inference_mode():
        torch.testing.assert_close(model(batch).logits, untouched, rtol=1e-3, atol=1e-3)
    losses = steps(model, batch, 4)
    assert all(loss > 0 for loss in losses)
    with torch.inference_mode():
        wanted = model(batch).logits
        model.merge_adapter()
        found = model(batch).logits
        assert not same(bytes_of(base), before)
        model.unmerge_adapter()
        assert torch.equal(model(batch).logits, wanted)
    assert same(bytes_of(base), before)
    if base.hf_quantizer.quant_method == "bitsandbytes":  # 8 bits: rounding costs little
        assert (
            difference(found, wanted) < 0.3 * difference(untouched, wanted) + 0.01 * wanted.norm()
        )


@pytest.mark.parametrize("base", ["int8"], indirect=True)
@pytest.mark.parametrize("kind", STARTING)
def test_what_it_starts_from_is_taken_out_of_the_packed_weight(
    kind: str, base: Any, batch: torch.Tensor
) -> None:
    with torch.inference_mode():
        untouched = base(batch).logits
    layer = base.model.layers[1].mlp.down_proj
    before, matrix = bytes_of(base), layer.weight.dequantize(torch.float32)
    model = peft.get_peft_model(base, STARTING[kind]).eval()
    assert not same(bytes_of(base), before)
    layer = base.model.layers[1].mlp.down_proj
    rest = layer.base_layer.weight.dequantize(torch.float32)
    delta = layer.get_delta_weight("default")
    assert delta.norm() > 0.05 * matrix.norm()
    assert (rest + delta - matrix).norm() < 0.01 * matrix.norm()
    with torch.inference_mode():
        started = model(batch).logits
    assert difference(started, untouched) < 0.05 * untouched.norm()


@pytest.mark.parametrize("base", ["gguf"], indirect=True)
def test_a_weight_that_cannot_be_packed_anew_is_no_start(
    base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = base.model.layers[3].mlp.down_proj.weight
    monkeypatch.setattr(last, "ggml_type", type("Kind", (), {"name": "IQ2_XXS"})())
    with pytest.raises(UnsupportedOperationError, match=r"down_proj: .*IQ2_XXS.*dequantize"):
        peft.get_peft_model(base, STARTING["olora"])


def test_undoing_puts_every_function_back() -> None:
    from peft.tuners.lora import dora
    from peft.tuners.lora.layer import LoraLayer
    from peft.tuners.tuners_utils import BaseTuner

    def now() -> list[Any]:
        return [
            dora.dequantize_module_weight,
            LoraLayer.pissa_init,
            LoraLayer.olora_init,
            BaseTuner._check_merge_allowed,
        ]

    ours = now()
    quantload.enable_peft().undo()
    own = now()
    assert not any(one is other for one, other in zip(ours, own, strict=True))
    with quantload.enable_peft():
        assert not any(one is other for one, other in zip(now(), own, strict=True))
    assert now() == own
