"""From blocks to numbers and back, in plain torch on any device."""

from __future__ import annotations

from quantload_gguf.blocks.decode import dequantize
from quantload_gguf.blocks.encode import quantize

__all__ = ["dequantize", "quantize"]
