"""A `.gguf` file whose blocks are of a type that is read and never written here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def only_read(kind: str, source: Path, target: Path) -> None:
    """Write a file with blocks of random codes in the place of another's of Q8_0.

    Args:
        kind: "Q4_K", "Q5_K" or "Q6_K".
        source: a Llama, all of whose packed rows are a multiple of 256 wide.
        target: where to write.
    """
    gguf = pytest.importorskip("gguf")
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            element = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], element)
    wanted = gguf.GGMLQuantizationType[kind]
    size, width = gguf.GGML_QUANT_SIZES[wanted]
    generator = np.random.default_rng(0)
    for tensor in reader.tensors:
        data, dtype = tensor.data, tensor.tensor_type
        if dtype == gguf.GGMLQuantizationType.Q8_0:
            columns, rows = (int(n) for n in tensor.shape)
            data = generator.integers(0, 256, (rows, columns // size, width), dtype=np.uint8)
            halves = np.array([2e-4, 1e-3], dtype=np.float16).view(np.uint8)
            data[..., -2:] = halves[:2]  # where the scale of Q6_K is
            if kind != "Q6_K":
                data[..., :4] = halves
            data, dtype = data.reshape(rows, -1), wanted
        writer.add_tensor(tensor.name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
