"""What `transformers` 5 with bitsandbytes writes itself: it packs all but the experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from models import assert_same_tensors, floated, logits, original, tensors

import quantload
from quantload.modules import QuantizedExperts, hosts_of

pytest.importorskip("bitsandbytes")
CONFIGS: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["mixtral", "qwen2-moe"])
def test_the_experts_stay_as_they_are(kind: str, name: str, tmp_path: Path) -> None:
    original(kind).save_pretrained(tmp_path / "float")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "float",
        quantization_config=transformers.BitsAndBytesConfig(**CONFIGS[name]),
        device_map="cpu",
    )
    theirs.save_pretrained(tmp_path / "theirs")
    model = quantload.load_model(tmp_path / "theirs")
    assert not any(isinstance(m, QuantizedExperts) for m in model.modules())
    assert "model.layers.1.self_attn.q_proj" in dict(hosts_of(model))
    torch.testing.assert_close(logits(model), logits(floated(model)), atol=2e-6, rtol=1e-5)
    with quantload.enable_transformers():
        bridged = type(theirs).from_pretrained(tmp_path / "theirs")
    assert torch.equal(logits(bridged), logits(model))
    quantload.save_model(model, tmp_path / "ours")
    assert_same_tensors(tensors(tmp_path / "theirs"), tensors(tmp_path / "ours"))
