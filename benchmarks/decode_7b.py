"""Tokens per second of a Llama of 7 billion parameters on a GPU, with every method.

    python benchmarks/decode_7b.py [METHOD ...] [--eager] [--layers 32] [--out FILE]

The weights are random and made on the device: only their shapes matter. Each method has a
process of its own; all compile at the same time, and when all are ready they are timed one
after the other, each for a limited time. What a method has given is written at once.

* decode: one sequence, a static cache of 512 positions, the model compiled with
  `fullgraph=True`, its step captured in one CUDA graph and replayed;
* prefill: one sequence of 2048 tokens, not compiled: launched kernel by kernel, and once
  more as one captured graph, in which the host's processor takes no part;
* `transformers-nf4` and `transformers-int8` have bitsandbytes' own layers in the places
  where `transformers` puts them, not compiled; NF4 is also captured, LLM.int8 cannot be.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _turns import answer, take_turns, wait_for_turn
from torch import Tensor, nn

OUT = Path(__file__).resolve().parents[1] / "out" / "benchmarks" / "decode_7b.json"
PROMPT, CACHE, PREFILL, TOKENS = 128, 512, 2048, 64
GROUP = 128
DTYPE = torch.bfloat16
DEVICE = "cuda"


def affine(linear: nn.Linear, zero_points: bool) -> nn.Module:
    """A layer of random 4-bit integers, as GPTQ (symmetric) or AWQ (not) stores them."""
    from quantload.weights.affine import AffineWeight

    rows, columns = linear.out_features, linear.in_features
    groups = (rows, columns // GROUP)
    weight = AffineWeight.from_codes(
        torch.randint(0, 16, (rows, columns), dtype=torch.uint8, device=DEVICE),
        torch.full(groups, 0.004, dtype=torch.float16, device=DEVICE),
        torch.randint(5, 10, groups, device=DEVICE) if zero_points else None,
        bits=4,
        group_size=GROUP,
        dtype=DTYPE,
    )
    return hosted(weight)


def by_config(linear: nn.Linear, config: dict[str, Any]) -> nn.Module:
    """A layer of random numbers, quantized by a method's own quantizer."""
    from quantload import AutoHfQuantizer
    from quantload.plugin import ModuleSpec

    quantizer: Any = AutoHfQuantizer.from_config(config)
    source = random_matrix(linear)
    weight = quantizer.quantize(ModuleSpec("layer", shape=tuple(source.shape), dtype=DTYPE), source)
    weight.set_compute_dtype(DTYPE)
    return hosted(weight)


def ggml_blocks(linear: nn.Linear) -> nn.Module:
    """A layer of random Q4_K blocks: two halves, then scales and codes, 144 bytes for 256."""
    from quantload_gguf.weight import GgufWeight

    rows, columns = linear.out_features, linear.in_features
    size = (rows, columns // 256, 144)
    blocks = torch.randint(0, 256, size, dtype=torch.uint8, device=DEVICE)
    halves = torch.tensor([1e-4, 1e-3], dtype=torch.float16, device=DEVICE)
    blocks[..., :4] = halves.view(torch.uint8)
    return hosted(GgufWeight.from_blocks(blocks.view(rows, -1), "Q4_K", dtype=DTYPE))


def hosted(weight: Any) -> nn.Module:
    """The module that hosts a weight, with the kernel that a loader would choose."""
    from quantload.kernels import prepare
    from quantload.modules import QuantizedLinear

    prepare(weight)
    return QuantizedLinear(weight)


def random_matrix(linear: nn.Linear) -> Tensor:
    """A float weight as a model may have it."""
    size = (linear.out_features, linear.in_features)
    return torch.randn(size, device=DEVICE, dtype=DTYPE) * 0.02


def library_4bit(linear: nn.Linear) -> nn.Module:
    """bitsandbytes' own NF4 layer, as `transformers` makes it."""
    import bitsandbytes as bnb

    sizes = (linear.in_features, linear.out_features)
    layer: Any = bnb.nn.Linear4bit(*sizes, bias=False, compute_dtype=DTYPE, quant_type="nf4")
    source = bnb.nn.Params4bit(random_matrix(linear), requires_grad=False, quant_type="nf4")
    layer.weight = source.to(DEVICE)
    made: nn.Module = layer
    return made


def library_8bit(linear: nn.Linear) -> nn.Module:
    """bitsandbytes' own LLM.int8 layer, as `transformers` makes it."""
    import bitsandbytes as bnb

    sizes = (linear.in_features, linear.out_features)
    layer: Any = bnb.nn.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False, threshold=6.0)
    source = random_matrix(linear).cpu()
    layer.weight = bnb.nn.Int8Params(source, has_fp16_weights=False, requires_grad=False)
    made: nn.Module = layer.to(DEVICE)
    return made


def dense(linear: nn.Linear) -> nn.Module:
    """A float layer."""
    with torch.device("meta"):
        layer = nn.Linear(linear.in_features, linear.out_features, bias=False)
    layer.weight = nn.Parameter(random_matrix(linear), requires_grad=False)
    return layer


NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
METHODS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "bf16": dense,
    "gptq": lambda linear: affine(linear, zero_points=False),
    "awq": lambda linear: affine(linear, zero_points=True),
    "nf4": lambda linear: by_config(linear, {**NF4, "bnb_4bit_compute_dtype": "bfloat16"}),
    "int8": lambda linear: by_config(
        linear, {"quant_method": "bitsandbytes", "load_in_8bit": True}
    ),
    "q4_k": ggml_blocks,
    "transformers-nf4": library_4bit,
    "transformers-int8": library_8bit,
}
PEERS = ("transformers-nf4", "transformers-int8")


def build(method: str, layers: int) -> Any:
    """The model with its linear layers, but for the head, made by the method."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from quantload.modules import set_module

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
    )
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config).to(DTYPE)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            make = dense if name == "lm_head" else METHODS[method]
            set_module(model, name, make(module))
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:  # the embedding and the norms
            owner, _, leaf = name.rpartition(".")
            made = torch.randn(parameter.shape, device=DEVICE, dtype=DTYPE) * 0.02 + 1
            setattr(model.get_submodule(owner), leaf, nn.Parameter(made, requires_grad=False))
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(DEVICE)
    return model.eval()


def seconds(call: Callable[[], object], repeat: int) -> float:
    """Median time of a call."""
    found = []
    for _ in range(repeat):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


class Decoder:
    """One sequence, a token at a time, with all state on the device."""

    def __init__(self, model: Any) -> None:
        from transformers import StaticCache

        self.model = model
        self.forward: Callable[..., Any] = model.forward
        self.cache = StaticCache(config=model.config, max_cache_len=CACHE)
        self.token = torch.zeros(1, 1, dtype=torch.int64, device=DEVICE)
        self.place = torch.zeros(1, 1, dtype=torch.int64, device=DEVICE)

    def prompt(self) -> None:
        """Fill the cache, and let it take its buffers."""
        ids = torch.randint(0, 32000, (1, PROMPT), device=DEVICE)
        self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.place.fill_(PROMPT)

    def step(self) -> None:
        """Write one token."""
        out = self.forward(
            self.token, position_ids=self.place, past_key_values=self.cache, use_cache=True
        )
        self.token.copy_(out.logits[:, -1].argmax(-1, keepdim=True))
        self.place.add_(1)

    def compile(self) -> None:
        """Compile the model, and run it until nothing is compiled any more."""
        self.forward = torch.compile(self.model.forward, fullgraph=True, dynamic=False)
        for _ in range(3):
            self.step()

    def captured(self) -> Callable[[], object]:
        """A step as a replayed graph."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step()
        return graph_of(self.step)


def kernels_of(model: nn.Module) -> list[str]:
    """Names of the kernels in use."""
    weights = [getattr(module, "weight", None) for module in model.modules()]
    used = [getattr(weight, "kernel", None) for weight in weights]
    return sorted({kernel.name for kernel in used if kernel is not None})


def graph_of(call: Callable[[], object]) -> Callable[[], object]:
    """A call as one CUDA graph; it must have run before."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(method: str, layers: int, eager: bool) -> None:
    """The figures of one method; timed only once the parent says so."""
    torch.manual_seed(0)
    figures: dict[str, Any] = {}
    start = time.perf_counter()
    model = build(method, layers)
    torch.cuda.synchronize()
    figures["build_s"] = time.perf_counter() - start
    figures["kernels"] = kernels_of(model)
    figures["gb"] = torch.cuda.memory_allocated() / 1e9
    decoder = Decoder(model)
    peer = method in PEERS
    ids = torch.randint(0, 32000, (1, PREFILL), device=DEVICE)

    def prefill() -> object:
        return model(ids, use_cache=True, logits_to_keep=1)

    with torch.inference_mode():
        decoder.prompt()
        start = time.perf_counter()
        if not eager and not peer:
            decoder.compile()
        step = decoder.step if peer else decoder.captured()
        for _ in range(2):
            prefill()
        torch.cuda.synchronize()
        figures["compile_s"] = time.perf_counter() - start
        wait_for_turn()
        tokens = 8 if peer else TOKENS
        figures["decode_tokens_s"] = tokens / seconds(lambda: [step() for _ in range(tokens)], 3)
        start = time.perf_counter()
        prefill()
        figures["prefill_launch_s"] = time.perf_counter() - start
        figures["prefill_tokens_s"] = PREFILL / seconds(prefill, 5)
        answer(figures)
        if method == "transformers-int8":  # it looks at values, which a graph cannot
            return
        figures["prefill_graph_tokens_s"] = PREFILL / seconds(graph_of(prefill), 5)
        answer(figures)
        if peer:
            replay = decoder.captured()
            figures["decode_graph_tokens_s"] = TOKENS / seconds(
                lambda: [replay() for _ in range(TOKENS)], 3
            )
            answer(figures)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--eager", action="store_true", help="capture without compiling")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--ready", type=float, default=150, help="seconds to compile in")
    parser.add_argument("--turn", type=float, default=20, help="seconds of a method's timing")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--one", choices=list(METHODS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one, options.layers, options.eager)
        return
    command = [sys.executable, __file__, "--layers", str(options.layers)]
    command += ["--eager"] if options.eager else []
    table: dict[str, Any] = {}
    data = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "methods": table}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    turns = take_turns(
        lambda method: [*command, "--one", method],
        options.methods or list(METHODS),
        options.ready,
        options.turn,
    )
    for method, figures, said in turns:
        if figures is None or not said.startswith("exit 0"):
            print(f"{method:>18}: {said}", flush=True)
        if figures is None:
            continue
        table[method] = figures
        print(f"{method:>18}: {line_of(figures)}", flush=True)
        options.out.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    print(f"{time.perf_counter() - start:.0f} s in all")


def line_of(figures: dict[str, Any]) -> str:
    """A row of the table."""
    graphs = "".join(
        f"{what} as a graph {figures[key]:.0f}   "
        for what, key in (
            ("decode", "decode_graph_tokens_s"),
            ("prefill", "prefill_graph_tokens_s"),
        )
        if key in figures
    )
    return (
        f"decode {figures['decode_tokens_s']:7.1f} tokens/s   "
        f"prefill {figures['prefill_tokens_s']:8.0f} tokens/s "
        f"(launched in {figures['prefill_launch_s'] * 1e3:.0f} ms)   {graphs}"
        f"{figures['gb']:5.1f} GB   "
        f"build {figures['build_s']:.1f} s, compile {figures['compile_s']:.0f} s   "
        f"{' '.join(figures['kernels'])}"
    )


if __name__ == "__main__":
    main()
