"""Adapters come to packed weights by every way that PEFT and transformers have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

import peft

import quantload

LORA: dict[str, Any] = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


@pytest.mark.parametrize("way", ["load_adapter", "AutoPeftModel"])
def test_a_saved_adapter_is_loaded_over_packed_weights(
    way: str, folder_of: Callable[[str], Path], batch: torch.Tensor, tmp_path: Path
) -> None:
    def load() -> Any:
        return quantload.load_model(folder_of("nf4"), dtype=torch.float32)

    trained = peft.get_peft_model(load(), peft.LoraConfig(**LORA)).eval()
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    trained.save_pretrained(tmp_path)
    with torch.inference_mode():
        wanted = trained(batch[:2]).logits
        with trained.disable_adapter():
            plain = trained(batch[:2]).logits
        assert torch.equal(plain, load()(batch[:2]).logits)
        if way == "AutoPeftModel":
            told = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
            told["base_model_name_or_path"] = str(folder_of("nf4"))
            (tmp_path / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
            with quantload.enable_transformers():
                found = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
            assert torch.equal(found(batch[:2]).logits, wanted)
            return
        model = load()
        model.load_adapter(str(tmp_path))
        assert torch.equal(model(batch[:2]).logits, wanted)
        model.disable_adapters()
        assert torch.equal(model(batch[:2]).logits, plain)
        model.enable_adapters()
        model.add_adapter(peft.LoraConfig(**LORA), adapter_name="second")
        model.set_adapter("second")  # its B is zero
        assert torch.equal(model(batch[:2]).logits, plain)
        model.set_adapter("default")
        assert torch.equal(model(batch[:2]).logits, wanted)
