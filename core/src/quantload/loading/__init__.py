"""Loading: skeleton on meta, plan from headers, stream of tensors, model or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantload._lazy import lazy_exports

if TYPE_CHECKING:
    from quantload.loading.dequantize import dequantize
    from quantload.loading.entry import load_model
    from quantload.loading.into import load_into
    from quantload.loading.report import LoadReport
    from quantload.loading.save import save_model

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "LoadReport": "quantload.loading.report",
        "dequantize": "quantload.loading.dequantize",
        "load_into": "quantload.loading.into",
        "load_model": "quantload.loading.entry",
        "save_model": "quantload.loading.save",
    },
    globals(),
)

__all__ = ["LoadReport", "dequantize", "load_into", "load_model", "save_model"]
