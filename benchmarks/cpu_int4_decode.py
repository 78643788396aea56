"""Tokens per second of a Llama of 1.1 billion parameters on this CPU: bfloat16 and int4.

    python benchmarks/cpu_int4_decode.py [--tokens 24] [--kernel cpu-affine]

The weights are random, for only their shapes matter; all models run in one process and
take turns, token by token, so that a machine that slows down favours none. Two are int4:
with the output head in bfloat16, and with the head packed, too (`lm_head: true` of GPTQ).
`no products` is the same model with layers that return zeros: what is left is the time
that no kernel can save. The table shows medians; everything is written as JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from typing import Any

import torch
from _common import OUT, machine, show
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from quantload.kernels import prepare
from quantload.modules import QuantizedLinear, set_module
from quantload.weights.affine import AffineWeight
from quantload.weights.affine.planes import row_bytes

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


def fill(tensor: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """The same few numbers over and over: to draw billions takes longer than the benchmark."""
    flat = tensor.view(-1)
    for start in range(0, flat.numel(), block.numel()):
        part = flat[start : start + block.numel()]
        part.copy_(block[: part.numel()])
    return tensor


def dense_model() -> nn.Module:
    with torch.device("meta"):
        model = LlamaForCausalLM(SHAPE)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    block = torch.randn(1 << 20).mul_(0.02).to(torch.bfloat16)
    for parameter in model.parameters():
        fill(parameter.data, block)
    rotary = type(model.model.rotary_emb)(SHAPE)
    model.model.rotary_emb = rotary
    ready: nn.Module = model.eval()
    return ready


class Nothing(nn.Linear):
    """Returns zeros."""

    def __init__(self, rows: int) -> None:
        nn.Module.__init__(self)
        self.zeros = torch.zeros(1, 16, rows, dtype=torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.zeros[:, : x.shape[1]]


def empty_model(dense: nn.Module) -> nn.Module:
    """The same model without its products."""
    model = copy.deepcopy(dense, {id(p): p for p in dense.parameters()})
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            set_module(model, name, Nothing(module.weight.shape[0]))
    return model


def packed_linear(linear: nn.Linear, block: torch.Tensor, kernel: str | None) -> QuantizedLinear:
    rows, columns = linear.weight.shape
    weight = AffineWeight(
        (rows, columns),
        torch.bfloat16,
        bits=4,
        group_size=GROUP,
        codes=fill(torch.empty((rows, row_bytes(columns, 4)), dtype=torch.uint8), block),
        scales=torch.full((rows, columns // GROUP), 0.004, dtype=torch.float16),
    )
    prepare(weight, kernel)
    return QuantizedLinear(weight)


def packed_models(dense: Any, kernel: str | None) -> tuple[nn.Module, nn.Module, str]:
    """The same model with int4 weights, its head in bfloat16 and int4, and the kernel's name.

    What is alike in two models is shared: each token reads far more than a cache holds.
    """
    shared = {id(p): p for p in dense.parameters()}
    model: Any = copy.deepcopy(dense, shared)
    block = torch.randint(0, 256, (1 << 20,)).byte()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            set_module(model, name, packed_linear(module, block, kernel))
    head = packed_linear(model.lm_head, block, kernel)
    kept = {id(m): m for m in model.modules() if isinstance(m, (QuantizedLinear, nn.Embedding))}
    other: Any = copy.deepcopy(model, kept)
    set_module(other, "lm_head", head)
    assert head.weight.kernel is not None
    return model, other, head.weight.kernel.name


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
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--kernel", help="by name; else the one that is chosen")
    options = parser.parse_args()
    torch.manual_seed(0)
    with torch.inference_mode():
        dense = dense_model()
        mixed, whole, kernel = packed_models(dense, options.kernel)
        decoders = {
            "bfloat16": Decoder(dense),
            "int4, head bfloat16": Decoder(mixed),
            "int4, head int4": Decoder(whole),
            "no products": Decoder(empty_model(dense)),
        }
        for _ in range(options.tokens):
            for decoder in decoders.values():
                decoder.step()
    rows = {
        name: {
            "ms": 1e3 * statistics.median(d.seconds),
            "tokens_per_s": 1 / statistics.median(d.seconds),
            "best_tokens_per_s": 1 / min(d.seconds),
        }
        for name, d in decoders.items()
    }
    for row in rows.values():
        for key, told in (("tokens_per_s", "ratio"), ("best_tokens_per_s", "best_ratio")):
            row[told] = row[key] / rows["bfloat16"][key]
    show(f"decoding with {kernel}, {torch.get_num_threads()} threads", rows, None)
    OUT.mkdir(parents=True, exist_ok=True)
    found = {
        "kernel": kernel,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "median": rows,
    }
    text = json.dumps(found, indent=2) + "\n"
    (OUT / "cpu_int4_decode.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
