"""Seconds to load a Llama of 7 billion parameters onto a GPU, quantized on load or before.

    python benchmarks/load_7b.py FOLDER [CASE ...] [--layers 32]

Random bfloat16 weights are written to FOLDER/float, where they are not there already
(13.5 GB), and each method's own checkpoint beside (4 GB each); all are in the page cache.
Each case has a process of its own, and they are timed one after the other, each for a
limited time; what a case has given is written at once. A load is timed until everything
is on the device, its kernels chosen. The first of a process also brings the device's
code into memory, so there are three, and each time is shown.

The cases named `transformers` are loaded by that alone, with its own bitsandbytes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _turns import answer, take_turns, wait_for_turn

OUT = Path(__file__).resolve().parents[1] / "out" / "benchmarks" / "load_7b.json"
NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16",
}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
CONFIGS: dict[str, dict[str, Any] | None] = {
    "bf16": None,
    "nf4": NF4,
    "int8": INT8,
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
}
CASES = (
    "bf16",
    "nf4 on load",
    "int8 on load",
    "nf4 folder",
    "int8 folder",
    "gptq folder",
    "awq folder",
    "transformers bf16",
    "transformers nf4",
    "transformers int8",
)


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


def load_of(case: str, root: Path) -> Callable[[], Any]:
    """What a case does, once its folder is there."""
    source = root / "float"
    first, _, rest = case.partition(" ")
    if first == "transformers":
        return partial(by_transformers, source, CONFIGS[rest])
    if rest != "folder":
        return partial(by_quantload, source, CONFIGS[first])
    saved = root / first
    if not saved.exists():
        import quantload

        quantload.save_model(by_quantload(source, CONFIGS[first]), saved)
        gc.collect()
        torch.cuda.empty_cache()
    return partial(by_quantload, saved)


def measure(case: str, root: Path, repeat: int) -> None:
    """Times of a case's load, each into an empty device."""
    import transformers  # noqa: F401  what is imported is not what is measured

    import quantload

    load = load_of(case, root)
    quantload.AutoHfQuantizer.from_config(NF4)
    torch.zeros(1, device="cuda")
    wait_for_turn()
    found: list[float] = []
    for _ in range(1 if case == "transformers int8" else repeat):  # that takes 16 s
        torch.cuda.synchronize()
        start = time.perf_counter()
        model = load()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
        answer({"s": found, "gb": torch.cuda.memory_allocated() / 1e9})
        del model
        gc.collect()


def warm(folder: Path) -> None:
    """Read all files, so that they are in the page cache."""
    buffer = bytearray(1 << 24)
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3, help="loads of a case")
    parser.add_argument("--ready", type=float, default=90, help="seconds to write folders in")
    parser.add_argument("--turn", type=float, default=20, help="seconds of a case's loads")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(options.folder / "float", options.layers)
        return
    if options.one:
        measure(options.one, options.folder, options.repeat)
        return
    command = [sys.executable, __file__, os.fspath(options.folder)]
    start = time.perf_counter()
    if not (options.folder / "float").exists():  # elsewhere: nothing stays on the device
        subprocess.run([*command, "--write", "--layers", str(options.layers)], check=True)
    warm(options.folder / "float")
    print(f"written and read in {time.perf_counter() - start:.1f} s", flush=True)
    table: dict[str, Any] = {}
    data = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cases": table}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    repeat = ["--repeat", str(options.repeat)]
    turns = take_turns(
        lambda case: [*command, *repeat, "--one", case],
        options.cases or CASES,
        options.ready,
        options.turn,
    )
    for case, figures, said in turns:
        if figures is None or not said.startswith("exit 0"):
            print(f"{case:>18}: {said}", flush=True)
        if figures is None:
            continue
        table[case] = figures
        times = "  ".join(f"{seconds:6.2f} s" for seconds in figures["s"])
        print(f"{case:>18}: {times}   {figures['gb']:5.1f} GB", flush=True)
        options.out.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
