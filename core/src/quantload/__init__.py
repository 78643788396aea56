"""quantload: load, run, make and save quantized models; every method is a plugin."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from quantload._version import __version__

if TYPE_CHECKING:
    from quantload.checkpoint import open_checkpoint
    from quantload.config.auto import AutoQuantizationConfig
    from quantload.config.base import QuantizationConfig, QuantizationConfigMixin
    from quantload.errors import (
        CheckpointError,
        ConfigError,
        DeviceMapError,
        MissingRequirementError,
        NoKernelError,
        PluginConflictError,
        PluginError,
        PluginIncompatibleError,
        PluginLoadError,
        QuantloadError,
        UnknownMethodError,
        UnsupportedOperationError,
    )
    from quantload.integrations.peft import enable_peft
    from quantload.integrations.transformers.bridge import enable_transformers
    from quantload.loading import dequantize, load_into, load_model, save_model
    from quantload.quantizers.auto import AutoHfQuantizer
    from quantload.quantizers.base import HfQuantizer
    from quantload.quantizers.weight import WeightQuantizer
    from quantload.registry import register
    from quantload.registry.api import refresh
    from quantload.verdict import Verdict
    from quantload.weights.packed import PackedWeight

logging.getLogger("quantload").addHandler(logging.NullHandler())

_ERRORS = (
    "CheckpointError",
    "ConfigError",
    "DeviceMapError",
    "MissingRequirementError",
    "NoKernelError",
    "PluginConflictError",
    "PluginError",
    "PluginIncompatibleError",
    "PluginLoadError",
    "QuantloadError",
    "UnknownMethodError",
    "UnsupportedOperationError",
)
_LAZY = {
    "AutoHfQuantizer": "quantload.quantizers.auto",
    "AutoQuantizationConfig": "quantload.config.auto",
    "HfQuantizer": "quantload.quantizers.base",
    "PackedWeight": "quantload.weights.packed",
    "QuantizationConfig": "quantload.config.base",
    "QuantizationConfigMixin": "quantload.config.base",
    "Verdict": "quantload.verdict",
    "WeightQuantizer": "quantload.quantizers.weight",
    "dequantize": "quantload.loading",
    "enable_peft": "quantload.integrations.peft",
    "enable_transformers": "quantload.integrations.transformers.bridge",
    "load_into": "quantload.loading",
    "load_model": "quantload.loading",
    "open_checkpoint": "quantload.checkpoint",
    "refresh": "quantload.registry.api",
    "register": "quantload.registry",
    "save_model": "quantload.loading",
    **dict.fromkeys(_ERRORS, "quantload.errors"),
}

__all__ = [
    "AutoHfQuantizer",
    "AutoQuantizationConfig",
    "CheckpointError",
    "ConfigError",
    "DeviceMapError",
    "HfQuantizer",
    "MissingRequirementError",
    "NoKernelError",
    "PackedWeight",
    "PluginConflictError",
    "PluginError",
    "PluginIncompatibleError",
    "PluginLoadError",
    "QuantizationConfig",
    "QuantizationConfigMixin",
    "QuantloadError",
    "UnknownMethodError",
    "UnsupportedOperationError",
    "Verdict",
    "WeightQuantizer",
    "__version__",
    "dequantize",
    "enable_peft",
    "enable_transformers",
    "load_into",
    "load_model",
    "open_checkpoint",
    "refresh",
    "register",
    "save_model",
]


def __getattr__(name: str) -> Any:
    """Public names on first use; then the names that installed plugins export."""
    import importlib.util

    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    elif name.startswith("_"):
        raise AttributeError(f"module 'quantload' has no attribute {name!r}")
    elif importlib.util.find_spec(f"quantload.{name}") is not None:
        value = importlib.import_module(f"quantload.{name}")
    else:
        from quantload.registry.exports import exported

        value = exported(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
