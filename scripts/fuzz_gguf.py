"""Damaged GGUF files, made without end: each is refused with an error or read as it is.

`python scripts/fuzz_gguf.py --seconds 600` changes small files of every kind at random;
with `--atheris` the library of that name chooses the changes by the code they reach. What is
done with each file: opened, its config and generation config made, every tensor
read and decoded, its tokenizer built. Anything raised but a `QuantloadError`, more than a
second of the processor, or more than 256 MiB above the beginning, is a failure: the file is kept
and its path printed.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

SECONDS, GROWTH = 1.0, 256 << 20
EXTREMES = (0, 1, 2, 7, 8, 9, 12, 13, 31, 32, 40, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
HUGE = (*EXTREMES, 2**33, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


class Check:
    """What is done with every file; torch and the rest are imported before the clock runs.

    Args:
        folder: where failures are kept.
    """

    def __init__(self, folder: Path) -> None:
        from quantload.errors import QuantloadError
        from quantload_gguf import load_tokenizer
        from quantload_gguf.model import GgufModel

        logging.getLogger("quantload").setLevel(logging.CRITICAL)
        self._error, self._open, self._tokenizer = QuantloadError, GgufModel.open, load_tokenizer
        self.folder, self.path = folder, folder / "now.gguf"
        self.read = self.refused = 0
        self._start = 0

    def __call__(self, data: bytes) -> str:
        """What went wrong with these bytes; "" where nothing did."""
        self.path.write_bytes(data)
        begin = time.process_time()
        problem = ""
        for what in (self._model, self._text):
            try:
                what()
                self.read += 1
            except self._error:
                self.refused += 1
            except Exception as error:  # noqa: BLE001  this is what is looked for
                problem = f"{type(error).__name__}: {error}"[:300]
        took = time.process_time() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._start = self._start or peak  # after the first file, when all is imported
        if not problem and took > SECONDS:
            problem = f"{took:.1f} s of the processor"
        if not problem and peak - self._start > GROWTH:
            problem = f"{(peak - self._start) >> 20} MiB more than at the beginning"
            self._start = peak
        return problem

    def _model(self) -> None:
        with self._open(self.path, mmap=False) as opened:
            for call in (opened.config, opened.generation_config):
                try:
                    call()
                except self._error:
                    self.refused += 1
            file: Any = getattr(opened, "file", opened)
            for name, tensor in file.tensors.items():
                if tensor.nbytes < 1 << 20:
                    try:
                        file.dequantize(name)
                    except self._error:
                        self.refused += 1
            for name in opened.tensors if file is not opened else ():
                if opened.tensors[name].nbytes < 1 << 20:
                    opened.read(name)

    def _text(self) -> None:
        self._tokenizer(self.path)("Hello 你好 def f(): 🙂")


def seeds(folder: Path) -> list[bytes]:
    """Small whole files: types, kinds of tokenizers, byte orders, every kind of metadata."""
    files = [
        _file(folder, "llama", _llama, _byte_level),
        _file(folder, "llama", _llama, _sentencepiece, endianess=gguf.GGUFEndian.BIG),
        _file(folder, "bert", _bert, _wordpiece),
        _file(folder, "t5", _nothing, _unigram),
        _file(folder, "qwen3moe", _experts, _byte_level),
        _file(folder, "other", _everything, _nothing),
    ]
    for data in files:
        assert len(data) < 1 << 16
    return files


def _file(folder: Path, arch: str, *fills: Callable[[Any], None], **options: Any) -> bytes:
    path = folder / "seed.gguf"
    writer = gguf.GGUFWriter(path, arch, **options)
    for fill in fills:
        fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _nothing(writer: Any) -> None:
    """No metadata of this kind."""


def _put(writer: Any, name: str, shape: tuple[int, ...], kind: str = "F32") -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    quant = gguf.GGMLQuantizationType[kind]
    data = values if kind == "F32" else gguf.quants.quantize(values, quant)
    writer.add_tensor(name, data, raw_dtype=None if kind == "F32" else quant)


def _sizes(writer: Any) -> None:
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_rope_freq_base(1e4)


def _llama(writer: Any) -> None:
    _sizes(writer)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(2.0)
    _put(writer, "token_embd.weight", (24, 32), "Q8_0")
    _put(writer, "output_norm.weight", (32,))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        _put(writer, f"blk.0.{name}.weight", (32, 32), "Q4_0")
    for name in ("attn_norm", "ffn_norm"):
        _put(writer, f"blk.0.{name}.weight", (32,))
    _put(writer, "rope_freqs.weight", (8,))


def _bert(writer: Any) -> None:
    _sizes(writer)
    for name in ("token_embd", "position_embd", "token_types", "blk.0.attn_q"):
        _put(writer, f"{name}.weight", (24, 32))
    _put(writer, "token_embd_norm.weight", (32,))


def _experts(writer: Any) -> None:
    _sizes(writer)
    writer.add_expert_count(2)
    writer.add_expert_used_count(1)
    writer.add_expert_feed_forward_length(32)
    _put(writer, "token_embd.weight", (24, 32))
    for name in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"):
        _put(writer, f"blk.0.{name}.weight", (2, 32, 32), "Q8_0")


def _everything(writer: Any) -> None:
    for number, name in enumerate(("uint8", "int8", "uint16", "int16", "uint32", "int32")):
        getattr(writer, f"add_{name}")(f"k.{name}", number)
    for name in ("uint64", "int64"):
        getattr(writer, f"add_{name}")(f"k.{name}", 7)
    writer.add_float32("k.f32", 0.5)
    writer.add_float64("k.f64", 0.5)
    writer.add_bool("k.bool", True)
    writer.add_array("k.ints", [1, 2, 3])
    writer.add_array("k.floats", [1.0, 2.0])
    writer.add_array("k.strings", ["a", "b"])
    writer.add_array("k.lists", [[1, 2], [3]])
    for name in gguf.GGML_QUANT_SIZES:
        block, nbytes = gguf.GGML_QUANT_SIZES[name]
        if name.name in ("Q8_1", "Q8_K", "Q1_0") or block == 1:
            continue
        data = np.random.default_rng(1).integers(0, 256, (1, nbytes), dtype=np.uint8)
        writer.add_tensor(f"t.{name.name}", data, raw_dtype=name)


def _tokens(writer: Any, model: str, tokens: list[str], types: list[int]) -> None:
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def _byte_level(writer: Any) -> None:
    _tokens(writer, "gpt2", ["<s>", "</s>", "H", "e", "l", "He", "ll"], [3, 3, 1, 1, 1, 1, 1])
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_merges(["H e", "l l"])
    writer.add_chat_template("{{ messages }}")


def _sentencepiece(writer: Any) -> None:
    pieces = ["<unk>", "</s>", "<0x41>", "\u2581", "H", "e", "He"]
    _tokens(writer, "llama", pieces, [2, 3, 6, 1, 1, 1, 1])
    writer.add_token_scores([0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -0.5])


def _wordpiece(writer: Any) -> None:
    _tokens(writer, "bert", ["[CLS]", "[SEP]", "[UNK]", "\u2581he", "llo"], [3, 3, 3, 1, 1])
    writer.add_unk_token_id(2)


def _unigram(writer: Any) -> None:
    _tokens(writer, "t5", ["<unk>", "</s>", "\u2581", "he", "llo"], [2, 3, 1, 1, 1])
    writer.add_token_scores([0.0, 0.0, -1.0, -2.0, -3.0])


def changed(files: list[bytes], rng: random.Random) -> bytes:
    """One of the files, with one to four things changed."""
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        # Headers are what is fragile; they lie at the beginning.
        at = rng.randrange(min(len(data), 4096) if rng.random() < 0.7 else len(data))
        kind = rng.randrange(8)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at : at + 4] = struct.pack("<I", rng.choice(EXTREMES))
        elif kind == 3:
            data[at : at + 8] = struct.pack("<Q", rng.choice(HUGE))
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 6:
            other = rng.choice(files)
            begin = rng.randrange(len(other))
            data[at:at] = other[begin : begin + rng.randrange(1, 200)]
        else:
            data[at : at + 8], data[at + 8 : at + 16] = data[at + 8 : at + 16], data[at : at + 8]
        if not data:
            break
    return bytes(data)


def at_random(check: Check, files: list[bytes], seconds: float, seed: int) -> int:
    """Change files until the time is over; gives the number of failures."""
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    failures, count, said = 0, 0, time.monotonic()
    for data in files * 2:  # what is imported on the way does not count
        problem = check(data)
    assert not problem, problem
    while time.monotonic() < end:
        data = changed(files, rng)
        problem = check(data)
        count += 1
        if problem:
            failures += 1
            kept = check.folder / f"failure-{failures}.gguf"
            kept.write_bytes(data)
            print(f"{problem}\n  kept as {kept}", flush=True)
        if time.monotonic() - said > 60:
            said = time.monotonic()
            print(f"{count} files, {failures} failures", flush=True)
    print(f"{count} files, {check.read} steps read, {check.refused} refused, {failures} failures")
    return failures


def by_atheris(check: Check, files: list[bytes], seconds: float, seed: int) -> None:
    """Let `atheris` choose the changes; it ends the process, with an error at the first failure."""
    import atheris

    corpus = check.folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(files):
        (corpus / str(number)).write_bytes(data)

    def one(data: bytes) -> None:
        problem = check(data)
        if problem:
            raise AssertionError(problem)

    options = [f"-max_total_time={int(seconds)}", f"-seed={seed}", "-rss_limit_mb=4096"]
    out = f"-artifact_prefix={check.folder}/"
    atheris.Setup([sys.argv[0], *options, out, "-max_len=16384", str(corpus)], one)
    atheris.Fuzz()


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--atheris", action="store_true")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-gguf-"))
    print(f"seed {asked.seed}, in {folder}", flush=True)
    if asked.atheris:
        import atheris

        with atheris.instrument_imports(include=["quantload_gguf"]):
            check = Check(folder)
            for data in seeds(folder):
                check(data)
        by_atheris(check, seeds(folder), asked.seconds, asked.seed)
        return 0
    return 1 if at_random(Check(folder), seeds(folder), asked.seconds, asked.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
