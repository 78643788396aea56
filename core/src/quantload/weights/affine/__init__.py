"""Group-wise integers with scales and zero-points: one layout for many methods."""

from __future__ import annotations

from quantload.weights.affine.weight import AffineWeight, Origin, zeros_dtype

__all__ = ["AffineWeight", "Origin", "zeros_dtype"]
