"""Modules that host a packed weight in the place of a float one."""

from __future__ import annotations

from quantload.modules.embedding import QuantizedEmbedding
from quantload.modules.experts import ExpertsLayout, QuantizedExperts
from quantload.modules.hosts import (
    dequantize_hosts,
    group_experts,
    host_for,
    hosts_of,
    set_module,
)
from quantload.modules.linear import QuantizedLinear

__all__ = [
    "ExpertsLayout",
    "QuantizedEmbedding",
    "QuantizedExperts",
    "QuantizedLinear",
    "dequantize_hosts",
    "group_experts",
    "host_for",
    "hosts_of",
    "set_module",
]
