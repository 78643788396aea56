"""Experts on the CPU: packed ones beside those of `transformers` in bfloat16, in the same run.

    python benchmarks/experts.py [--repeat 3] [--only "gptq" ...]

The model has one layer of Qwen3-30B-A3B's shape with half of its experts: 64 of
[2 x 768, 2048] and [2048, 768], of which a token goes to 8 (604 MB in bfloat16). It is
written with a tensor per matrix, as on the Hub, and, for one case, with the 3-D parameters
of the class; quantizing methods quantize it while it is loaded.

`decode_ms` is one token through the experts (the choice changes from token to token, so
that weights are cold), `prefill_ms` 256 tokens, `unpacked_ms` those tokens with the weights
of an expert dequantized first, in turns with the former, medians; `load_peak_mb` is the peak of
memory while loading, over what stood before. Memory-mapped weights of the float model
count when they are first read, which is not in it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _common import MB, OUT, Case, Meter, main

FOLDER = "QUANTLOAD_BENCH_EXPERTS"
HIDDEN, INNER, EXPERTS, CHOSEN = 2048, 768, 64, 8
PREFILL, TOKENS, PROMPTS = 256, 48, 5
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "dtype": "bfloat16",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "moe_intermediate_size": INNER,
    "num_experts": EXPERTS,
    "num_experts_per_tok": CHOSEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 256,
    "tie_word_embeddings": False,
}
METHODS: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "nf4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "bfloat16",
    },
    "int8": {"load_in_8bit": True},
    "gguf Q4_0": {"quant_method": "gguf", "type": "Q4_0"},
    "gguf Q8_0": {"quant_method": "gguf", "type": "Q8_0"},
}
COLUMNS = ["decode_ms", "prefill_ms", "unpacked_ms", "weights_mb", "load_s", "load_peak_mb"]


def write_models(folder: Path) -> None:
    """The same random weights twice: per expert, and stacked."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    layer = "model.layers.0"
    width = CONFIG["num_attention_heads"] * CONFIG["head_dim"]
    rest = {
        "model.embed_tokens.weight": random(CONFIG["vocab_size"], HIDDEN),
        "lm_head.weight": random(CONFIG["vocab_size"], HIDDEN),
        "model.norm.weight": torch.ones(HIDDEN, dtype=torch.bfloat16),
        f"{layer}.input_layernorm.weight": torch.ones(HIDDEN, dtype=torch.bfloat16),
        f"{layer}.post_attention_layernorm.weight": torch.ones(HIDDEN, dtype=torch.bfloat16),
        f"{layer}.self_attn.q_norm.weight": torch.ones(64, dtype=torch.bfloat16),
        f"{layer}.self_attn.k_norm.weight": torch.ones(64, dtype=torch.bfloat16),
        f"{layer}.self_attn.o_proj.weight": random(HIDDEN, width),
        f"{layer}.mlp.gate.weight": random(EXPERTS, HIDDEN),
    }
    for name in ("q_proj", "k_proj", "v_proj"):
        rest[f"{layer}.self_attn.{name}.weight"] = random(width, HIDDEN)
    stacks = {
        "gate_up_proj": random(EXPERTS, 2 * INNER, HIDDEN),
        "down_proj": random(EXPERTS, HIDDEN, INNER),
    }
    apart = {}
    for number in range(EXPERTS):
        start = f"{layer}.mlp.experts.{number}"
        gate, up = stacks["gate_up_proj"][number].chunk(2)
        apart[f"{start}.gate_proj.weight"] = gate.clone()
        apart[f"{start}.up_proj.weight"] = up.clone()
        apart[f"{start}.down_proj.weight"] = stacks["down_proj"][number].clone()
    fused = {f"{layer}.mlp.experts.{name}": tensor for name, tensor in stacks.items()}
    for name, own in (("apart", apart), ("fused", fused)):
        (folder / name).mkdir(parents=True)
        save_file({**rest, **own}, folder / name / "model.safetensors", {"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(CONFIG))


def setup() -> None:
    """Write the checkpoints once, for all processes."""
    OUT.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="experts-", dir=OUT.parent))
    os.environ[FOLDER] = str(folder)
    write_models(folder)


def measure(meter: Meter, experts: Callable[..., Any]) -> None:
    """Time single tokens and a prompt."""
    import torch

    generator = torch.Generator().manual_seed(1)
    chosen = torch.stack(
        [torch.randperm(EXPERTS, generator=generator)[:CHOSEN] for _ in range(PREFILL)]
    )
    weights = torch.rand(PREFILL, CHOSEN, generator=generator).to(torch.bfloat16)
    x = torch.randn(PREFILL, HIDDEN, generator=generator).to(torch.bfloat16)

    def timed(rows: slice) -> float:
        start = time.perf_counter()
        experts(x[rows], chosen[rows], weights[rows])
        return (time.perf_counter() - start) * 1000

    with torch.no_grad():
        timed(slice(None))  # touches every weight
        singles = [timed(slice(n, n + 1)) for n in range(TOKENS)]
        meter.note("decode_ms", statistics.median(singles[8:]))
        prompts, unpacked = [], []
        for _ in range(PROMPTS):
            prompts.append(timed(slice(None)))
            with dequantized_first(experts) as packed:
                unpacked.append(timed(slice(None)) if packed else 0)
        meter.note("prefill_ms", statistics.median(prompts))
        if any(unpacked):
            meter.note("unpacked_ms", statistics.median(unpacked))


@contextmanager
def dequantized_first(experts: Any) -> Iterator[bool]:
    """Let packed layers multiply with what they stand for; whether there are any."""
    import torch

    from quantload.modules import QuantizedLinear

    def unpacked(layer: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, layer.weight.dequantize(x.dtype))

    layers = [layer for layer in experts.modules() if isinstance(layer, QuantizedLinear)]
    for layer in layers:
        layer.forward = functools.partial(unpacked, layer)  # type: ignore[method-assign]  # a while
    try:
        yield bool(layers)
    finally:
        for layer in layers:
            del layer.forward


def quantload_case(meter: Meter, *, config: dict[str, Any] | None, layout: str = "apart") -> None:
    """Load, quantizing where a config is given."""
    import transformers  # noqa: F401  imports are not what is measured

    import quantload

    with meter.phase("load"):
        model = quantload.load_model(
            Path(os.environ[FOLDER]) / layout, quantization_config=config and dict(config)
        )
    meter.note("weights_mb", model.get_memory_footprint() / MB)
    measure(meter, model.model.layers[0].mlp.experts)


def transformers_case(meter: Meter, *, implementation: str) -> None:
    """The class's own experts, with one of its implementations."""
    import torch
    from transformers import AutoModelForCausalLM

    with meter.phase("load"):
        model = AutoModelForCausalLM.from_pretrained(
            Path(os.environ[FOLDER]) / "apart",
            dtype=torch.bfloat16,
            experts_implementation=implementation,
        )
    meter.note("weights_mb", model.get_memory_footprint() / MB)
    measure(meter, model.model.layers[0].mlp.experts)


CASES: dict[str, Case] = {
    f"transformers bf16 {name}": functools.partial(transformers_case, implementation=name)
    for name in ("eager", "grouped_mm")
}
for label, settings in METHODS.items():
    CASES[label] = functools.partial(quantload_case, config=settings)
CASES["gptq from stacks"] = functools.partial(
    quantload_case, config=METHODS["gptq"], layout="fused"
)

if __name__ == "__main__":
    try:
        main("experts", CASES, setup=setup, columns=COLUMNS, repeat=3)
    finally:
        if FOLDER in os.environ and "--case" not in sys.argv:
            shutil.rmtree(os.environ[FOLDER], ignore_errors=True)
