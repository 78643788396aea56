"""Seconds to load a Llama of 7 billion parameters onto a GPU, quantized on load or before.

    python benchmarks/load_7b.py FOLDER [--layers 32] [--peers]

A folder of random bfloat16 weights is written to FOLDER/float, where it is not there
already (13.5 GB), and left in the page cache. Each load is timed until everything is on
the device, its kernels chosen; the first of each kind also compiles kernels, so there are
three and each time is shown. `--peers` loads with `transformers` alone, too.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

OUT = Path(__file__).resolve().parents[1] / "out" / "benchmarks" / "load_7b.json"
NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16",
}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}


def write(folder: Path, layers: int) -> None:
    """A float checkpoint, a shard a layer."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    folder.mkdir(parents=True)
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in LlamaForCausalLM(config).named_parameters()}
    shards: dict[str, dict[str, torch.Size]] = {}
    for name, shape in shapes.items():
        parts = name.split(".")
        shards.setdefault(parts[2] if parts[1] == "layers" else "rest", {})[name] = shape
    index = {}
    for number, members in enumerate(shards.values(), 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {
            name: (torch.randn(shape, device="cuda", dtype=torch.bfloat16) * 0.02).cpu()
            for name, shape in members.items()
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(members, file))
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    config.save_pretrained(folder)


def timed(label: str, load: Callable[[], Any], repeat: int = 3) -> list[float]:
    """Times of a load, each into an empty device."""
    found = []
    for _ in range(repeat):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model = load()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
        del model
        gc.collect()
    print(f"{label:>22}: " + "  ".join(f"{seconds:6.2f} s" for seconds in found), flush=True)
    return found


def by_quantload(folder: Path, config: dict[str, Any] | None = None) -> Any:
    """A load by this library."""
    import quantload

    return quantload.load_model(
        folder, quantization_config=config, device_map="cuda", dtype=torch.bfloat16
    )


def by_transformers(folder: Path, config: dict[str, Any] | None) -> Any:
    """A load by `transformers`, with its own bitsandbytes."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    own = None
    if config is not None:
        own = BitsAndBytesConfig(**{k: v for k, v in config.items() if k != "quant_method"})
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=own, device_map="cuda", dtype=torch.bfloat16
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    import quantload

    source = options.folder / "float"
    if not source.exists():
        start = time.perf_counter()
        write(source, options.layers)
        print(f"written in {time.perf_counter() - start:.1f} s", flush=True)
    figures = {"bf16": timed("bf16", partial(by_quantload, source))}
    for name, config in (("nf4", NF4), ("int8", INT8), ("gptq", GPTQ)):
        label = f"{name} on load"
        figures[label] = timed(label, partial(by_quantload, source, config))
        if name == "int8":
            continue
        saved = options.folder / name
        if not saved.exists():
            quantload.save_model(by_quantload(source, config), saved)
            gc.collect()
        label = f"{name} folder"
        figures[label] = timed(label, partial(by_quantload, saved))
    if options.peers:
        for name, own in {"bf16": None, "nf4": NF4, "int8": INT8}.items():
            label = f"transformers {name}"
            figures[label] = timed(label, partial(by_transformers, source, own), 2)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    data = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "s": figures}
    options.out.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
