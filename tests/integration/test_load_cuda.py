"""`load_model` onto a GPU, beside `from_pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, MixtralForCausalLM

import quantload

pytestmark = pytest.mark.gpu

IDS = torch.arange(2 * 8).reshape(2, 8) + 100
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}


def same_state(ours: Any, theirs: Any) -> None:
    mine, yours = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == yours.keys()
    for name, tensor in yours.items():
        assert mine[name].device == tensor.device, name
        assert torch.equal(mine[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_float(demo_model: Path, dtype: torch.dtype) -> None:
    ours = quantload.load_model(demo_model, device_map="cuda", dtype=dtype)
    theirs = AutoModelForCausalLM.from_pretrained(demo_model, device_map="cuda", dtype=dtype)
    same_state(ours, theirs)
    assert torch.equal(ours(IDS.cuda()).logits, theirs(IDS.cuda()).logits)


def test_experts(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "mixtral", vocab_size=200, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    torch.manual_seed(0)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        same_state(
            quantload.load_model(tmp_path, device_map=0, dtype=dtype),
            AutoModelForCausalLM.from_pretrained(tmp_path, device_map=0, dtype=dtype),
        )


@pytest.mark.parametrize("config", [NF4, {"load_in_8bit": True}], ids=["nf4", "int8"])
def test_quantized(demo_model: Path, config: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    ours = quantload.load_model(demo_model, device_map="cuda", quantization_config=config)
    theirs = AutoModelForCausalLM.from_pretrained(
        demo_model, device_map="cuda", quantization_config=BitsAndBytesConfig(**config)
    )
    with torch.no_grad():
        mine, yours = ours(IDS.cuda()).logits.float(), theirs(IDS.cuda()).logits.float()
    assert (mine - yours).abs().mean() < 0.1 * yours.abs().mean()
    quantload.save_model(ours, tmp_path)
    again = quantload.load_model(tmp_path, device_map="cuda")
    assert torch.equal(again(IDS.cuda()).logits, ours(IDS.cuda()).logits)
    moved = again.to("cpu").to("cuda")
    assert torch.equal(moved(IDS.cuda()).logits, ours(IDS.cuda()).logits)


def test_offloading_with_little_memory(demo_model: Path) -> None:
    whole = quantload.load_model(demo_model, device_map="cuda")
    ours = quantload.load_model(demo_model, device_map="auto", max_memory={0: "5MB", "cpu": "1GB"})
    assert set(ours.hf_device_map.values()) == {0, "cpu"}
    assert torch.equal(ours(IDS.cuda()).logits, whole(IDS.cuda()).logits)
    ids = ours.generate(IDS.cuda(), max_new_tokens=4, do_sample=False)
    assert torch.equal(ids, whole.generate(IDS.cuda(), max_new_tokens=4, do_sample=False))
