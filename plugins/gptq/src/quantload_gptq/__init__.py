"""GPTQ for quantload: checkpoints of auto-gptq, GPTQModel and optimum, in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantload_gptq.config import GPTQConfig
    from quantload_gptq.quantizer import GPTQQuantizer

_LAZY = {"GPTQConfig": "config", "GPTQQuantizer": "quantizer"}

__all__ = ["GPTQConfig", "GPTQQuantizer"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
