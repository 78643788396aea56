"""AQLM for quantload: weights as sums of codebook entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantload._lazy import lazy_exports

if TYPE_CHECKING:
    from quantload_aqlm.config import AqlmConfig
    from quantload_aqlm.quantizer import AqlmQuantizer
    from quantload_aqlm.weights import AqlmWeight

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AqlmConfig": "quantload_aqlm.config",
        "AqlmQuantizer": "quantload_aqlm.quantizer",
        "AqlmWeight": "quantload_aqlm.weights",
    },
    globals(),
)

__all__ = ["AqlmConfig", "AqlmQuantizer", "AqlmWeight"]
