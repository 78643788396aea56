"""NF4, FP4 and LLM.int8 for quantload, byte-compatible with the `bitsandbytes` library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantload_bitsandbytes.config import BitsAndBytesConfig
    from quantload_bitsandbytes.quantizer import BitsAndBytesQuantizer
    from quantload_bitsandbytes.weights import Bnb4Weight, Bnb8Weight

_LAZY = {
    "BitsAndBytesConfig": "config",
    "BitsAndBytesQuantizer": "quantizer",
    "Bnb4Weight": "weights",
    "Bnb8Weight": "weights",
}

__all__ = ["BitsAndBytesConfig", "BitsAndBytesQuantizer", "Bnb4Weight", "Bnb8Weight"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
