"""Part of a model in memory, the rest on disk, through `from_pretrained`."""

from __future__ import annotations

import tempfile
from collections import Counter
from typing import Any

import torch
from _model import PROMPT, checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

import quantload

quantload.enable_transformers()
tokenizer = AutoTokenizer.from_pretrained(checkpoint())
inputs = tokenizer(PROMPT, return_tensors="pt")
nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
whole = AutoModelForCausalLM.from_pretrained(checkpoint(), quantization_config=nf4)

with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
    wanted = whole(**inputs).logits
    by_hand = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "cpu",
        "model.layers.2": "disk",
        "model.layers.3": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    plans: dict[str, dict[str, Any]] = {
        "by hand": {"device_map": by_hand},
        "by limit": {"device_map": "auto", "max_memory": {"cpu": "4MB"}},
    }
    for label, plan in plans.items():
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint(), quantization_config=nf4, offload_folder=f"{folder}/{label}", **plan
        )
        places = Counter(str(place) for place in model.hf_device_map.values())
        same = torch.equal(model(**inputs).logits, wanted)
        print(f"{label}: {dict(places)}; the same logits as in memory: {same}")
