"""What the tests of the GGUF plugin share: files written by the `gguf` package."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter

from quantload_gguf import ggml_type

# The plugin does without transformers, which is what makes tokenizers.
if importlib.util.find_spec("transformers") is None:
    collect_ignore = ["test_tokenizer.py", "test_written_tokenizers.py"]

Fill = Callable[[GGUFWriter], None]


def add_tensors(writer: GGUFWriter, tensors: Mapping[str, Any]) -> None:
    """Name -> float32 array, or (array of blocks, type name)."""
    for name, tensor in tensors.items():
        if isinstance(tensor, tuple):
            blocks, kind = tensor
            writer.add_tensor(name, blocks, raw_dtype=GGMLQuantizationType[kind])
        else:
            writer.add_tensor(name, tensor)


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """`write_gguf(tensors, fill, ...)` writes a file and gives its path."""

    def write(
        tensors: Mapping[str, Any] | None = None,
        fill: Fill | None = None,
        *,
        name: str = "model.gguf",
        arch: str = "llama",
        **options: Any,
    ) -> Path:
        path = tmp_path / name
        writer = GGUFWriter(path, arch, **options)
        if fill is not None:
            fill(writer)
        add_tensors(writer, tensors or {})
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture
def quantized() -> Callable[..., tuple[np.ndarray, str]]:
    """`quantized(kind, shape)` gives blocks of random weights and the name of their type."""

    def make(kind: str, shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, str]:
        values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        return gguf.quants.quantize(values, GGMLQuantizationType[kind]), kind

    return make


def sane_blocks(name: str, rows: int, count: int, seed: int = 0) -> torch.Tensor:
    """Random blocks whose scales are small numbers: uint8 `[rows, count * bytes per block]`."""
    kind = ggml_type(name)
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(
        0, 256, (rows * count, kind.nbytes), dtype=torch.uint8, generator=generator
    )
    wide = kind.wide if kind.wide is not None else ((0, 1, 2),)
    for offset, fields, _ in wide if name != "IQ1_M" else ():
        for at in range(offset, offset + 2 * fields, 2):
            scales = torch.rand(rows * count, 1, generator=generator) * 0.01
            blocks[:, at : at + 2] = scales.to(torch.float16).view(torch.uint8)
    if name == "IQ1_M":
        blocks[:, 55] = blocks[:, 55] & 15 | 0x10
    if name == "MXFP4":
        blocks[:, 0] = blocks[:, 0] % 16 + 112
    if name == "NVFP4":
        blocks[:, :4] = blocks[:, :4] % 64
    return blocks.view(rows, count * kind.nbytes)


@pytest.fixture(name="sane_blocks")
def sane_blocks_fixture() -> Callable[..., torch.Tensor]:
    return sane_blocks
