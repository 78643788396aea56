"""From blocks to numbers, in plain torch on any device."""

from __future__ import annotations

from quantload_gguf.blocks.decode import dequantize

__all__ = ["dequantize"]
