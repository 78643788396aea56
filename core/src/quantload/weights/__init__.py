"""Packed weights: storage, logical shape and compute dtype in one module."""

from __future__ import annotations

from quantload.weights.packed import PackedWeight

__all__ = ["PackedWeight"]
