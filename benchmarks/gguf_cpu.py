"""A GGUF Llama of 1.1 billion parameters on this CPU: quantload, llama.cpp, and bfloat16.

    python benchmarks/gguf_cpu.py [--repeat 2] [--only "Q4_K, quantload" "Q4_K, llama.cpp" bfloat16]

The files have TinyLlama's shape, random blocks, and every matrix in one type. Each case is a
process of two threads that loads a file and measures tokens per second: of decoding, the
median over single tokens after a short prompt, and of reading a prompt of 512 tokens. The
cases of quantload run in bfloat16; `bfloat16` is `transformers` without quantization.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import OUT, Case, Meter, main
from loading import CONFIG, shapes

FOLDER = "QUANTLOAD_BENCH_FOLDER"
THREADS = 2
PROMPT, TOKENS = 512, 16
TYPES = ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
COLUMNS = ["decode", "prefill", "load_s", "load_peak_mb"]
_SCALES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    """The name of a tensor in a GGUF file."""
    module = name.removesuffix(".weight")
    if module in _NAMES:
        return f"{_NAMES[module]}.weight"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest]}.weight"


def write_file(path: Path, kind: str) -> None:
    """Random blocks of one type."""
    import gguf
    import numpy as np

    which = gguf.GGMLQuantizationType[kind]
    elements, nbytes = gguf.GGML_QUANT_SIZES[which]
    generator = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_vocab_size(CONFIG["vocab_size"])
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    writer.add_rope_dimension_count(CONFIG["hidden_size"] // CONFIG["num_attention_heads"])
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("none")
    scale = np.array([0.0005], np.float16).view(np.uint8)
    for name, shape in shapes().items():
        if len(shape) == 1:
            writer.add_tensor(gguf_name(name), np.ones(shape, np.float32))
            continue
        blocks = generator.integers(
            0, 256, (shape[0] * shape[1] // elements, nbytes), dtype=np.uint8
        )
        for place in _SCALES.get(kind, (0,)):
            blocks[:, place : place + 2] = scale
        writer.add_tensor(gguf_name(name), blocks.reshape(shape[0], -1), raw_dtype=which)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def file_of(kind: str) -> Path:
    return Path(os.environ[FOLDER]) / f"llama-{kind}.gguf"


def setup() -> None:
    """The files that the cases read."""
    Path(os.environ[FOLDER]).mkdir(parents=True, exist_ok=True)
    for kind in TYPES:
        if not file_of(kind).exists() and wanted(kind):
            write_file(file_of(kind), kind)


def wanted(kind: str) -> bool:
    """Whether some case that is asked for reads files of this type."""
    if "--only" not in sys.argv:
        return True
    return any(word.startswith(f"{kind},") for word in sys.argv)


def speeds(meter: Meter, model: Any) -> None:
    """Tokens per second of a `transformers` model."""
    import torch

    with torch.inference_mode():
        prompt = torch.arange(PROMPT)[None] + 100
        model(prompt[:, :16])
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            model(prompt, logits_to_keep=1)
            seconds.append(time.perf_counter() - start)
        meter.note("prefill", PROMPT / min(seconds))
        state = model(prompt[:, :16], use_cache=True)
        seconds = []
        for _ in range(TOKENS):
            token = state.logits[:, -1].argmax(-1, keepdim=True)
            start = time.perf_counter()
            state = model(token, past_key_values=state.past_key_values, use_cache=True)
            seconds.append(time.perf_counter() - start)
        meter.note("decode", 1 / statistics.median(seconds))


def ours(kind: str, meter: Meter) -> None:
    """The file as it is, in bfloat16."""
    import torch
    from transformers import LlamaForCausalLM  # noqa: F401  imports are not what is measured

    import quantload
    import quantload_gguf.quantizer  # noqa: F401  likewise

    torch.set_num_threads(THREADS)
    with meter.phase("load"):
        model = quantload.load_model(file_of(kind), dtype=torch.bfloat16, progress=False)
    speeds(meter, model)


def theirs(kind: str, meter: Meter) -> None:
    """llama.cpp with the same file and as many threads."""
    import llama_cpp

    with meter.phase("load"):
        model = llama_cpp.Llama(
            str(file_of(kind)),
            n_ctx=1024,
            n_batch=PROMPT,
            n_ubatch=PROMPT,
            n_threads=THREADS,
            n_threads_batch=THREADS,
            verbose=False,
        )
    prompt = list(range(100, 100 + PROMPT))
    model.eval(prompt[:16])
    seconds = []
    for _ in range(2):
        model.reset()
        start = time.perf_counter()
        model.eval(prompt)
        seconds.append(time.perf_counter() - start)
    meter.note("prefill", PROMPT / min(seconds))
    model.reset()
    model.eval(prompt[:16])
    seconds = []
    for token in range(TOKENS):
        start = time.perf_counter()
        model.eval([200 + token])
        seconds.append(time.perf_counter() - start)
    meter.note("decode", 1 / statistics.median(seconds))


def unquantized(meter: Meter) -> None:
    """`transformers` in bfloat16, with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(THREADS)
    config = LlamaConfig(**{k: v for k, v in CONFIG.items() if k != "dtype"})
    with meter.phase("load"):
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            empty = LlamaForCausalLM(config)
        model = empty.to_empty(device="cpu")
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.02)
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
        torch.set_default_dtype(torch.float32)
    speeds(meter, model.eval())


CASES: dict[str, Case] = {"bfloat16": unquantized}
for _kind in TYPES:
    CASES[f"{_kind}, quantload"] = functools.partial(ours, _kind)
    if importlib.util.find_spec("llama_cpp") is not None:
        CASES[f"{_kind}, llama.cpp"] = functools.partial(theirs, _kind)


def plot(figures: Path) -> None:
    """Tokens per second of every case as bars, beside the JSON."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = json.loads(figures.read_text(encoding="utf-8"))["median"]
    names = list(rows)[::-1]
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 0.4 * len(rows) + 1.4), sharey=True)
    for axis, key in zip(axes, ("decode", "prefill"), strict=True):
        axis.barh(names, [rows[name][key] for name in names])
        axis.set_title(f"{key}, tokens per second")
    figure.tight_layout()
    figure.savefig(figures.with_suffix(".png"), dpi=120)
    print(f"drawn in {figures.with_suffix('.png')}")


def run() -> None:
    if "--case" in sys.argv:
        main("gguf_cpu", CASES)
        return
    keep = "--keep" in sys.argv
    if keep:
        sys.argv.remove("--keep")
        root = Path(tempfile.gettempdir()) / "quantload-bench-gguf-cpu"
    else:
        root = Path(tempfile.mkdtemp(prefix="quantload-bench-"))
    os.environ[FOLDER] = str(root)
    try:
        main("gguf_cpu", CASES, setup=setup, columns=COLUMNS, repeat=1)
        if importlib.util.find_spec("matplotlib") is not None:
            plot(OUT / "gguf_cpu.json")
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    run()
