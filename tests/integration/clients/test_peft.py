"""PEFT: LoRA over every method learns, is saved and loaded, and merges where that can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

import peft

import quantload
from quantload import UnsupportedOperationError
from quantload.modules import hosts_of
from quantload.plugin import PackedWeight

LORA: dict[str, Any] = {
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "v_proj", "down_proj"],
    "task_type": "CAUSAL_LM",
}
TARGETS = 4 * 3


@pytest.fixture
def merging() -> Any:
    with quantload.enable_peft():
        yield


@pytest.fixture
def packed(folder_of: Callable[[str], Path], method: str) -> Callable[[], Any]:
    """Loads the demo model packed by the method, computing in float32."""
    return lambda: quantload.load_model(folder_of(method), dtype=torch.float32)


def with_adapter(model: Any, spread: float = 0.02, **options: Any) -> Any:
    """The model with adapters whose B is not the zero it starts as."""
    torch.manual_seed(0)
    found = peft.get_peft_model(model, peft.LoraConfig(**{**LORA, **options})).eval()
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=spread)
    return found


def bytes_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every packed byte, by the names that the layers have without adapters."""
    return {
        f"{name.replace('.base_layer', '').removeprefix('base_model.model.')}.{part}": t.clone()
        for name, host in hosts_of(model)
        for part, t in host.weight.canonical().storage().items()
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def steps(model: Any, batch: torch.Tensor, count: int) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    model.train()
    losses = []
    for step in range(count):
        part = batch[2 * step % 8 : 2 * step % 8 + 2]
        loss = model(part, labels=part).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def test_thirty_steps_lower_the_loss_and_what_was_learned_is_saved_and_loaded(
    packed: Callable[[], Any], batch: torch.Tensor, tmp_path: Path
) -> None:
    base = packed()
    assert base.hf_quantizer.is_trainable
    before = bytes_of(base)
    torch.manual_seed(0)
    model = peft.get_peft_model(base, peft.LoraConfig(**LORA))
    losses = steps(model, batch, 30)
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert same(bytes_of(base), before), "training changed packed bytes"

    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(packed(), tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(batch).logits, model(batch).logits)


def test_an_adapter_is_merged_by_packing_the_sum_and_taken_out_to_the_byte(
    packed: Callable[[], Any], batch: torch.Tensor, merging: None
) -> None:
    base = packed()
    before = bytes_of(base)
    model = with_adapter(base, spread=0.2)
    layer = base.model.layers[1].mlp.down_proj
    delta = layer.get_delta_weight("default")
    exact = layer.base_layer.weight.dequantize(torch.float32) + delta
    with torch.inference_mode():
        wanted = model(batch).logits
        model.merge_adapter()
        merged = bytes_of(base)
        lost = layer.base_layer.weight.dequantize(torch.float32) - exact
        found = model(batch).logits
        model.unmerge_adapter()
        assert torch.equal(model(batch).logits, wanted)
        with model.disable_adapter():
            without = model(batch).logits
    changed = {
        key.rpartition(".")[0] for key, t in merged.items() if not torch.equal(t, before[key])
    }
    assert len(changed) == TARGETS
    assert same(bytes_of(base), before)
    # Rounding the sum costs something, and less than leaving the adapter out; 2-bit AQLM
    # without calibration costs most.
    bits_2 = base.hf_quantizer.quant_method == "aqlm"
    assert lost.norm() < (0.45 if bits_2 else 0.15) * exact.norm()
    assert (found - wanted).norm() < (0.95 if bits_2 else 0.6) * (without - wanted).norm()


def test_merged_and_unloaded_it_is_a_packed_checkpoint_like_any_other(
    packed: Callable[[], Any], batch: torch.Tensor, tmp_path: Path, merging: None
) -> None:
    model = with_adapter(packed()).merge_and_unload()
    assert not any("lora" in name for name, _ in model.named_modules())
    assert sum(isinstance(m, PackedWeight) for m in model.modules()) == 28
    quantload.save_model(model, tmp_path)
    again = quantload.load_model(tmp_path, dtype=torch.float32)
    with torch.inference_mode():
        assert torch.equal(again(batch).logits, model(batch).logits)


def test_adapters_merged_one_after_the_other_are_all_in_the_sum_and_come_out_together(
    folder_of: Callable[[str], Path], merging: None
) -> None:
    base = quantload.load_model(folder_of("int8"), dtype=torch.float32)
    before = bytes_of(base)
    model = with_adapter(base, spread=0.1)
    model.add_adapter("second", peft.LoraConfig(**LORA))
    for name, parameter in model.named_parameters():
        if "lora_B.second" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    layer = base.model.layers[0].self_attn.q_proj
    exact = layer.base_layer.weight.dequantize(torch.float32)
    exact = exact + layer.get_delta_weight("default") + layer.get_delta_weight("second")
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="additionally merging second"):
        model.merge_adapter(["second"])
    assert layer.merged_adapters == ["default", "second"]
    found = layer.base_layer.weight.dequantize(torch.float32)
    assert (found - exact).norm() < 0.02 * exact.norm()
    model.unmerge_adapter()
    assert same(bytes_of(base), before)


def test_a_bias_of_the_adapter_goes_where_the_layer_has_one(merging: None) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(64, 32))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    from quantload.quantizers import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config({"load_in_8bit": True}, pre_quantized=False)
    spec = quantizer.targets(net) or {"0": quantload.plugin.ModuleSpec("0", shape=(32, 64))}
    quantizer.preprocess_model(net, specs=spec)
    net[0].weight = quantizer.quantize(spec["0"], state["0.weight"])
    net[0].bias = torch.nn.Parameter(state["0.bias"].clone())
    model = peft.get_peft_model(net, peft.LoraConfig(target_modules=["0"], lora_bias=True))
    layer = model.base_model.model[0]
    with torch.no_grad():
        layer.lora_B["default"].bias.fill_(0.5)
    model.merge_adapter()
    assert torch.allclose(layer.base_layer.bias, state["0.bias"] + 0.5 * layer.scaling["default"])
    model.unmerge_adapter()
    assert torch.equal(layer.base_layer.bias, state["0.bias"])


def test_without_the_integration_the_refusal_names_it(folder_of: Callable[[str], Path]) -> None:
    model = with_adapter(quantload.load_model(folder_of("nf4")))
    with pytest.raises(UnsupportedOperationError, match=r"quantload\.enable_peft\(\)"):
        model.merge_adapter()
    with quantload.enable_peft():  # serves models that have their adapters already
        model.merge_adapter()
    assert model.base_model.model.model.layers[0].self_attn.q_proj.merged


def test_enabling_is_idempotent_and_ends_with_the_block_that_began_it() -> None:
    from peft.tuners.lora.model import LoraModel

    own = LoraModel._check_merge_allowed
    with quantload.enable_peft():
        ours = LoraModel._check_merge_allowed
        assert ours is not own
        with quantload.enable_peft():
            assert LoraModel._check_merge_allowed is ours
        assert LoraModel._check_merge_allowed is ours
    assert LoraModel._check_merge_allowed is own


def test_where_the_method_cannot_pack_anew_it_is_refused_before_anything_is_merged(
    folder_of: Callable[[str], Path], merging: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = quantload.load_model(folder_of("gguf"), kernel="reference")
    last = base.model.layers[3].mlp.down_proj.weight
    monkeypatch.setattr(last, "ggml_type", type("Kind", (), {"name": "IQ2_XXS"})())
    model = with_adapter(base)
    before = bytes_of(base)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(UnsupportedOperationError, match=r"down_proj: .*IQ2_XXS.*dequantize"):
            merge()
    assert same(bytes_of(base), before)
    assert not base.model.layers[0].self_attn.q_proj.merged


def test_what_peft_cannot_merge_at_all_changes_nothing(
    folder_of: Callable[[str], Path], merging: None
) -> None:
    base = quantload.load_model(folder_of("int8"), dtype=torch.float32)
    model = with_adapter(base, alora_invocation_tokens=[1, 2])
    before = bytes_of(base)
    with pytest.raises(NotImplementedError, match="aLoRA does not support merging"):
        model.merge_adapter()
    assert same(bytes_of(base), before)
    assert not base.model.layers[0].self_attn.q_proj.merged


def test_an_adapter_that_is_broken_is_not_merged(
    folder_of: Callable[[str], Path], merging: None
) -> None:
    base = quantload.load_model(folder_of("nf4"))
    model = with_adapter(base, spread=float("inf"))
    before = bytes_of(base)
    with pytest.raises(UnsupportedOperationError, match="not finite"):
        model.merge_adapter()
    assert same(bytes_of(base), before)


def test_merging_into_floats_is_the_way_out_that_the_refusals_name(
    folder_of: Callable[[str], Path], batch: torch.Tensor, merging: None
) -> None:
    model = with_adapter(quantload.load_model(folder_of("gguf"), dtype=torch.float32))
    with torch.inference_mode():
        wanted = model(batch).logits
        quantload.dequantize(model.base_model.model)
        found = model.merge_and_unload()(batch).logits
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_preparing_for_kbit_training_leaves_the_bytes_as_they_are(
    packed: Callable[[], Any], batch: torch.Tensor
) -> None:
    base = packed()
    before = bytes_of(base)
    prepared = peft.prepare_model_for_kbit_training(base)
    model = peft.get_peft_model(prepared, peft.LoraConfig(**LORA))
    losses = steps(model, batch, 2)
    assert all(loss > 0 for loss in losses)
    after = bytes_of(base)
    assert same(after, before)
    assert [t.dtype for t in after.values()] == [t.dtype for t in before.values()]


@pytest.mark.parametrize("method", ["nf4", "gptq"])
def test_models_of_the_bridge_learn_and_merge_too(
    folder_of: Callable[[str], Path], method: str, batch: torch.Tensor, merging: None
) -> None:
    transformers = pytest.importorskip("transformers")
    with quantload.enable_transformers():
        base = transformers.AutoModelForCausalLM.from_pretrained(
            folder_of(method), dtype=torch.float32
        )
        model = peft.get_peft_model(
            peft.prepare_model_for_kbit_training(base), peft.LoraConfig(**LORA)
        )
        losses = steps(model, batch, 6)
        assert losses[-1] < losses[0]
        merged = model.merge_and_unload()
    assert sum(isinstance(m, PackedWeight) for m in merged.modules()) == 28
    assert torch.isfinite(merged(batch[:1]).logits).all()
