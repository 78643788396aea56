"""Weights whose storage is declared: each part by its dtype and shape."""

from __future__ import annotations

from quantload.weights.parts.declaring import Part, part, setting
from quantload.weights.parts.weight import PartsWeight

__all__ = ["Part", "PartsWeight", "part", "setting"]
