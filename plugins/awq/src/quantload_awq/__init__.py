"""AWQ for quantload: checkpoints of autoawq, llm-awq and GPTQModel, in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantload_awq.activation import ScaledActivation
    from quantload_awq.config import AwqConfig
    from quantload_awq.quantizer import AwqQuantizer

_LAZY = {"AwqConfig": "config", "AwqQuantizer": "quantizer", "ScaledActivation": "activation"}

__all__ = ["AwqConfig", "AwqQuantizer", "ScaledActivation"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
