"""Loading a Llama of 1.1 billion parameters on the CPU, beside `transformers` in the same run.

The model is TinyLlama's shape with random weights, written shard by shard as bf16
(2.2 GB) to a temporary folder that is removed afterwards; `--keep` leaves it there
and uses it again. Every figure is over the process after its imports. `total_s` is
loading plus the first forward pass: memory-mapped weights are read in the latter.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from _common import MB, OUT, Case, Meter, main

FOLDER = "QUANTLOAD_BENCH_FOLDER"
SHARD_BYTES = 500 * MB
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
INT8 = {"load_in_8bit": True}
COLUMNS = [
    "load_s",
    "first_forward_s",
    "total_s",
    "load_peak_mb",
    "peak_over_weights_mb",
    "weights_mb",
]


def shapes() -> dict[str, list[int]]:
    """Every tensor of the model, in the order in which published checkpoints keep them."""
    hidden, inner, vocabulary = 2048, 5632, 32000
    found = {"model.embed_tokens.weight": [vocabulary, hidden]}
    for layer in range(CONFIG["num_hidden_layers"]):
        start = f"model.layers.{layer}"
        found |= {
            f"{start}.self_attn.q_proj.weight": [hidden, hidden],
            f"{start}.self_attn.k_proj.weight": [256, hidden],
            f"{start}.self_attn.v_proj.weight": [256, hidden],
            f"{start}.self_attn.o_proj.weight": [hidden, hidden],
            f"{start}.mlp.gate_proj.weight": [inner, hidden],
            f"{start}.mlp.up_proj.weight": [inner, hidden],
            f"{start}.mlp.down_proj.weight": [hidden, inner],
            f"{start}.input_layernorm.weight": [hidden],
            f"{start}.post_attention_layernorm.weight": [hidden],
        }
    return found | {"model.norm.weight": [hidden], "lm_head.weight": [vocabulary, hidden]}


def write_model(folder: Path) -> None:
    """Random weights, never more than one shard of them in memory."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    shards: list[dict[str, list[int]]] = [{}]
    size = 0
    for name, shape in shapes().items():
        nbytes = 2 * torch.Size(shape).numel()
        if size + nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += nbytes
    index: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {
            name: torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
            if len(shape) == 2
            else torch.ones(shape, dtype=torch.bfloat16)
            for name, shape in shard.items()
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, file)
    text = json.dumps({"metadata": {}, "weight_map": index}, indent=1)
    (folder / "model.safetensors.index.json").write_text(text)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))


def setup() -> None:
    """The float checkpoint, and one that is NF4 already."""
    root = Path(os.environ[FOLDER])
    if not (root / "bf16" / "config.json").exists():
        write_model(root / "bf16")
    if not (root / "nf4" / "config.json").exists():
        import quantload

        model = quantload.load_model(root / "bf16", quantization_config=NF4, progress=False)
        quantload.save_model(model, root / "nf4")


def measure(library: str, checkpoint: str, config: dict[str, Any] | None, meter: Meter) -> None:
    """Load, and run once."""
    import torch
    import transformers

    folder = Path(os.environ[FOLDER]) / checkpoint
    ids = torch.arange(16).reshape(1, 16) + 100
    # What `transformers` imports lazily belongs to neither side.
    from transformers import LlamaForCausalLM  # noqa: F401

    import quantload

    if config is not None or checkpoint == "nf4":
        import bitsandbytes  # noqa: F401
    # Given as None, it would make `transformers` forget what the checkpoint says.
    passed = {"quantization_config": transformers.BitsAndBytesConfig(**config)} if config else {}
    transformers.utils.logging.disable_progress_bar()
    with meter.phase("load"):
        if library == "quantload":
            model = quantload.load_model(folder, progress=False, **passed)
        else:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, device_map="cpu", **passed
            )
    weights = model.get_memory_footprint() / MB
    with torch.no_grad(), meter.phase("first_forward"):
        model(ids)
    meter.note("total_s", meter.figures["load_s"] + meter.figures["first_forward_s"])
    meter.note("weights_mb", weights)
    meter.note("peak_over_weights_mb", meter.figures["load_peak_mb"] - weights)


CASES: dict[str, Case] = {
    f"{kind}, {library}": functools.partial(measure, library, folder, config)
    for kind, folder, config in (
        ("bf16", "bf16", None),
        ("nf4 on load", "bf16", NF4),
        ("int8 on load", "bf16", INT8),
        ("nf4 pre-quantized", "nf4", None),
    )
    for library in ("quantload", "transformers")
}


def plot(figures: Path) -> None:
    """Seconds and peak memory of every case as bars, beside the JSON."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = json.loads(figures.read_text(encoding="utf-8"))["median"]
    panes = (
        ("seconds", (("load_s", "load"), ("first_forward_s", "first forward"))),
        ("peak while loading, MB", (("load_peak_mb", "over the process before"),)),
    )
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 0.45 * len(rows) + 1.4), sharey=True)
    names = list(rows)[::-1]
    for axis, (title, parts) in zip(axes, panes, strict=True):
        left = [0.0] * len(names)
        for key, label in parts:
            values = [rows[name][key] for name in names]
            axis.barh(names, values, left=left, label=label)
            left = [before + value for before, value in zip(left, values, strict=True)]
        axis.set_title(title)
        axis.legend()
    figure.tight_layout()
    figure.savefig(figures.with_suffix(".png"), dpi=120)
    print(f"drawn in {figures.with_suffix('.png')}")


def run() -> None:
    if "--case" in sys.argv:
        main("loading", CASES)
        return
    keep = "--keep" in sys.argv
    if keep:
        sys.argv.remove("--keep")
        root = Path(tempfile.gettempdir()) / "quantload-bench-loading"
    else:
        root = Path(tempfile.mkdtemp(prefix="quantload-bench-"))
    os.environ[FOLDER] = str(root)
    try:
        main("loading", CASES, setup=setup, columns=COLUMNS, repeat=3)
        if importlib.util.find_spec("matplotlib") is not None:
            plot(OUT / "loading.json")
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    run()
