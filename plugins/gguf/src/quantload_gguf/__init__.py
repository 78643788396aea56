"""GGUF for quantload: files read lazily, weights that stay in their blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantload._lazy import lazy_exports

if TYPE_CHECKING:
    from quantload_gguf.blocks import dequantize
    from quantload_gguf.container import GgufTensor
    from quantload_gguf.ggml import GgmlType, ggml_type
    from quantload_gguf.reader import GgufFile, open_gguf

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "GgmlType": "quantload_gguf.ggml",
        "GgufFile": "quantload_gguf.reader",
        "GgufTensor": "quantload_gguf.container",
        "dequantize": "quantload_gguf.blocks",
        "ggml_type": "quantload_gguf.ggml",
        "open_gguf": "quantload_gguf.reader",
    },
    globals(),
)

__all__ = ["GgmlType", "GgufFile", "GgufTensor", "dequantize", "ggml_type", "open_gguf"]
