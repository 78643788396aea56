"""Loading GGUF files of 1.1 billion parameters on the CPU, beside llama.cpp and `transformers`.

TinyLlama's shape with random blocks, every matrix of one type, written to a temporary
folder that is removed afterwards; `--keep` leaves it there and uses it again. Every
figure is over the process after its imports. `transformers` unpacks such files to
float32. llama.cpp is `llama-cpp-python`, left out where it is not installed.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import MB, Case, Meter, main
from loading import CONFIG

FOLDER = "QUANTLOAD_BENCH_FOLDER"
TYPES = ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
COLUMNS = ["load_s", "first_forward_s", "total_s", "peak_mb", "file_mb", "peak_over_file_mib"]


def write_file(path: Path, kind: str) -> None:
    """Random blocks with small scales, one tensor in memory at a time."""
    import torch

    from quantload_gguf.container import Field, ValueType
    from quantload_gguf.container.writing import Planned, write_gguf
    from quantload_gguf.ggml import ggml_type

    generator = torch.Generator().manual_seed(0)
    block, plain = ggml_type(kind), ggml_type("F32")

    def blocks(shape: tuple[int, ...]) -> torch.Tensor:
        count = shape[0] * shape[1] // block.elements
        data = torch.randint(0, 256, (count, block.nbytes), dtype=torch.uint8, generator=generator)
        for offset, halves, _ in block.wide or ():
            scales = torch.full((count, halves), 0.002).to(torch.float16)
            data[:, offset : offset + 2 * halves] = scales.view(torch.uint8)
        return data

    def planned(name: str, *shape: int) -> Planned:
        if len(shape) == 1:
            return Planned(name, shape, plain, lambda: torch.ones(shape))
        return Planned(name, shape, block, lambda: blocks(shape))

    hidden, inner, vocabulary = 2048, 5632, 32000
    tensors = [planned("token_embd.weight", vocabulary, hidden)]
    for layer in range(CONFIG["num_hidden_layers"]):
        shapes: dict[str, tuple[int, ...]] = {
            "attn_norm": (hidden,),
            "ffn_norm": (hidden,),
            "attn_q": (hidden, hidden),
            "attn_k": (256, hidden),
            "attn_v": (256, hidden),
            "attn_output": (hidden, hidden),
            "ffn_gate": (inner, hidden),
            "ffn_up": (inner, hidden),
            "ffn_down": (hidden, inner),
        }
        tensors += [planned(f"blk.{layer}.{name}.weight", *s) for name, s in shapes.items()]
    tensors += [planned("output_norm.weight", hidden), planned("output.weight", vocabulary, hidden)]
    fields: dict[str, Field] = {
        key: Field(value, ValueType.STRING)
        for key, value in {
            "general.architecture": "llama",
            "general.name": "benchmark",
            "tokenizer.ggml.model": "none",
        }.items()
    }
    sizes = {
        "vocab_size": vocabulary,
        "context_length": CONFIG["max_position_embeddings"],
        "embedding_length": hidden,
        "block_count": CONFIG["num_hidden_layers"],
        "feed_forward_length": inner,
        "attention.head_count": CONFIG["num_attention_heads"],
        "attention.head_count_kv": CONFIG["num_key_value_heads"],
        "rope.dimension_count": 64,
    }
    for name, size in sizes.items():
        fields[f"llama.{name}"] = Field(size, ValueType.UINT32)
    fields["llama.attention.layer_norm_rms_epsilon"] = Field(1e-5, ValueType.FLOAT32)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(path, fields, tensors)


def setup() -> None:
    """A file of each type."""
    for kind in TYPES:
        path = Path(os.environ[FOLDER]) / f"{kind}.gguf"
        if not path.exists():
            write_file(path, kind)


def measure(library: str, kind: str, meter: Meter) -> None:
    """Load, and run sixteen tokens."""
    path = Path(os.environ[FOLDER]) / f"{kind}.gguf"
    {"quantload": ours, "transformers": transformers, "llama.cpp": llama_cpp}[library](path, meter)
    size = path.stat().st_size
    peak = meter.figures["both_peak_mb"]
    meter.note("total_s", meter.figures["load_s"] + meter.figures["first_forward_s"])
    meter.note("peak_mb", peak)
    meter.note("file_mb", size / MB)
    meter.note("peak_over_file_mib", (peak * MB - size) / 2**20)


def run_all(meter: Meter, load: Any, forward: Any) -> None:
    """Both phases, and the memory of both together."""
    with meter.phase("both"):
        start = time.perf_counter()
        model = load()
        meter.note("load_s", time.perf_counter() - start)
        start = time.perf_counter()
        forward(model)
        meter.note("first_forward_s", time.perf_counter() - start)


def ours(path: Path, meter: Meter) -> None:
    import torch
    from transformers import LlamaForCausalLM  # noqa: F401

    import quantload
    import quantload_gguf.kernels
    import quantload_gguf.quantizer  # noqa: F401  imports are not what is measured

    ids = torch.arange(16).reshape(1, 16) + 100
    with torch.no_grad():
        run_all(meter, lambda: quantload.load_model(path, progress=False), lambda model: model(ids))


def transformers(path: Path, meter: Meter) -> None:
    import gguf  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, LlamaForCausalLM, utils  # noqa: F401

    utils.logging.disable_progress_bar()
    ids = torch.arange(16).reshape(1, 16) + 100
    with torch.no_grad():
        run_all(
            meter,
            lambda: AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name),
            lambda model: model(ids),
        )


def llama_cpp(path: Path, meter: Meter) -> None:
    from llama_cpp import Llama

    threads = len(os.sched_getaffinity(0))
    run_all(
        meter,
        lambda: Llama(str(path), n_ctx=512, n_threads=threads, verbose=False),
        lambda model: model.eval(list(range(100, 116))),
    )


LIBRARIES = ["quantload", *(["llama.cpp"] if importlib.util.find_spec("llama_cpp") else [])]
PAIRS = [*((kind, library) for kind in TYPES for library in LIBRARIES), ("Q4_0", "transformers")]
CASES: dict[str, Case] = {
    f"{kind}, {library}": functools.partial(measure, library, kind) for kind, library in PAIRS
}


def run() -> None:
    """See the module."""
    if "--case" in sys.argv:
        main("gguf_loading", CASES)
        return
    keep = "--keep" in sys.argv
    if keep:
        sys.argv.remove("--keep")
        root = Path(tempfile.gettempdir()) / "quantload-bench-gguf"
    else:
        root = Path(tempfile.mkdtemp(prefix="quantload-bench-"))
    os.environ[FOLDER] = str(root)
    try:
        main("gguf_loading", CASES, setup=setup, columns=COLUMNS, repeat=3)
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    run()
