"""Triton kernels for quantload's group-wise integer weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantload._lazy import lazy_exports

if TYPE_CHECKING:
    from quantload_kernels_triton.kernel import TritonAffine

_LAZY = {"TritonAffine": "quantload_kernels_triton.kernel"}
__getattr__, __dir__ = lazy_exports(__name__, _LAZY, globals())

__all__ = ["TritonAffine"]
