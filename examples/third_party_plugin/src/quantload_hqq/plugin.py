"""The descriptor that the entry point names: data, so that listing it imports no torch."""

from __future__ import annotations

from quantload.plugin import QuantizerPlugin

PLUGIN = QuantizerPlugin(
    api=1,
    config="quantload_hqq.config:HqqConfig",
    quantizer="quantload_hqq.quantizer:HqqQuantizer",
    devices=("cpu", "cuda", "mps", "xpu"),
    summary="HQQ: 1 to 8 bits with float zero-points, fitted without calibration data",
    demo={
        "HQQ 4-bit": {"quant_method": "hqq", "nbits": 4, "group_size": 64},
        "HQQ 2-bit": {"quant_method": "hqq", "nbits": 2, "group_size": 16},
    },
)
