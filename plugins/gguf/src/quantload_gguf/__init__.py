"""GGUF for quantload: files read lazily, weights that stay in their blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantload._lazy import lazy_exports

if TYPE_CHECKING:
    from quantload_gguf.blocks import dequantize
    from quantload_gguf.ggml import GgmlType, ggml_type

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "GgmlType": "quantload_gguf.ggml",
        "dequantize": "quantload_gguf.blocks",
        "ggml_type": "quantload_gguf.ggml",
    },
    globals(),
)

__all__ = ["GgmlType", "dequantize", "ggml_type"]
