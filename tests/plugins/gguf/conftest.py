"""What the tests of the GGUF plugin share: files written by the `gguf` package."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

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
