"""Quantizers: the verbs of loading, and the factory that finds the right one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantload._lazy import lazy_exports

if TYPE_CHECKING:
    from quantload.config.auto import AutoQuantizationConfig
    from quantload.quantizers.auto import AutoHfQuantizer
    from quantload.quantizers.base import HfQuantizer
    from quantload.quantizers.spec import ModuleSpec, TensorHeader
    from quantload.quantizers.weight import WeightQuantizer

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AutoHfQuantizer": "quantload.quantizers.auto",
        "AutoQuantizationConfig": "quantload.config.auto",
        "HfQuantizer": "quantload.quantizers.base",
        "ModuleSpec": "quantload.quantizers.spec",
        "TensorHeader": "quantload.quantizers.spec",
        "WeightQuantizer": "quantload.quantizers.weight",
    },
    globals(),
)

__all__ = [
    "AutoHfQuantizer",
    "AutoQuantizationConfig",
    "HfQuantizer",
    "ModuleSpec",
    "TensorHeader",
    "WeightQuantizer",
]
