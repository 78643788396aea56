"""The container: what a GGUF file says of itself, read and checked without its tensors."""

from __future__ import annotations

from quantload_gguf.container.header import Header, kept_fields, read_header
from quantload_gguf.container.tensors import GgufTensor
from quantload_gguf.container.values import Field, ValueType

__all__ = ["Field", "GgufTensor", "Header", "ValueType", "kept_fields", "read_header"]
