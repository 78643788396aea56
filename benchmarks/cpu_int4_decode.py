"""Tokens per second of a Llama of 1.1 billion parameters on this CPU: bfloat16 and int4.

    python benchmarks/cpu_int4_decode.py [--tokens 12] [--head]

The weights are random, for only their shapes matter; both models run in one process and
take turns, token by token, so that a machine that slows down favours neither. `--head`
packs the output head, too.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from quantload.kernels import prepare
from quantload.modules import QuantizedLinear, set_module
from quantload.weights.affine import AffineWeight

GROUP = 128
SHAPE = LlamaConfig(
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=22,
    num_attention_heads=32,
    num_key_value_heads=4,
    max_position_embeddings=2048,
)


def dense_model() -> nn.Module:
    with torch.device("meta"):
        model = LlamaForCausalLM(SHAPE)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02)
    rotary = type(model.model.rotary_emb)(SHAPE)
    model.model.rotary_emb = rotary
    ready: nn.Module = model.eval()
    return ready


def packed_model(dense: nn.Module, head: bool) -> nn.Module:
    """The same model with random int4 weights; what stays float is shared."""
    shared = {id(p): p for p in dense.parameters()}
    model = copy.deepcopy(dense, shared)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and (head or name != "lm_head"):
            rows, columns = module.weight.shape
            groups = (rows, columns // GROUP)
            weight = AffineWeight.from_codes(
                torch.randint(0, 16, (rows, columns), dtype=torch.uint8),
                torch.full(groups, 0.004, dtype=torch.float16),
                bits=4,
                group_size=GROUP,
                dtype=torch.bfloat16,
            )
            prepare(weight, "torch-int4")
            set_module(model, name, QuantizedLinear(weight))
    return model


class Decoder:
    """A model in the middle of writing."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.seconds: list[float] = []
        ids = torch.arange(1, 17)[None]
        self.state = model(ids, use_cache=True)

    def step(self) -> None:
        token = self.state.logits[:, -1].argmax(-1, keepdim=True)
        start = time.perf_counter()
        cache = self.state.past_key_values
        self.state = self.model(token, past_key_values=cache, use_cache=True)
        self.seconds.append(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description="Decoding speed, bfloat16 and int4.")
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--head", action="store_true", help="pack the output head, too")
    options = parser.parse_args()
    torch.manual_seed(0)
    with torch.inference_mode():
        dense = dense_model()
        decoders = {
            "bfloat16": Decoder(dense),
            "int4": Decoder(packed_model(dense, options.head)),
        }
        for _ in range(options.tokens):
            for decoder in decoders.values():
                decoder.step()
    best = {name: 1 / min(d.seconds) for name, d in decoders.items()}
    median = {name: 1 / statistics.median(d.seconds) for name, d in decoders.items()}
    for name in decoders:
        print(f"{name:>9}: {median[name]:6.2f} tokens/s (best {best[name]:6.2f})")
    for told, found in (("median", median), ("best", best)):
        print(f"int4 / bfloat16, {told}: {found['int4'] / found['bfloat16']:.2f}")
    print(json.dumps({"threads": torch.get_num_threads(), "median": median, "best": best}))


if __name__ == "__main__":
    main()
