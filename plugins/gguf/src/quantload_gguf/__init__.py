"""GGUF for quantload: files read lazily, weights that stay in their blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantload._lazy import lazy_exports

if TYPE_CHECKING:
    from quantload_gguf.blocks import dequantize, quantize
    from quantload_gguf.config import GgufConfig
    from quantload_gguf.container import GgufTensor
    from quantload_gguf.ggml import GgmlType, ggml_type
    from quantload_gguf.model import GgufModel
    from quantload_gguf.quantizer import GgufQuantizer
    from quantload_gguf.reader import GgufFile, open_gguf
    from quantload_gguf.vocabulary import load_tokenizer
    from quantload_gguf.weight import GgufWeight

_LAZY = {
    "GgmlType": "quantload_gguf.ggml",
    "GgufConfig": "quantload_gguf.config",
    "GgufFile": "quantload_gguf.reader",
    "GgufModel": "quantload_gguf.model",
    "GgufQuantizer": "quantload_gguf.quantizer",
    "GgufTensor": "quantload_gguf.container",
    "GgufWeight": "quantload_gguf.weight",
    "dequantize": "quantload_gguf.blocks",
    "ggml_type": "quantload_gguf.ggml",
    "load_tokenizer": "quantload_gguf.vocabulary",
    "open_gguf": "quantload_gguf.reader",
    "quantize": "quantload_gguf.blocks",
}
__getattr__, __dir__ = lazy_exports(__name__, _LAZY, globals())

__all__ = [
    "GgmlType",
    "GgufConfig",
    "GgufFile",
    "GgufModel",
    "GgufQuantizer",
    "GgufTensor",
    "GgufWeight",
    "dequantize",
    "ggml_type",
    "load_tokenizer",
    "open_gguf",
    "quantize",
]
