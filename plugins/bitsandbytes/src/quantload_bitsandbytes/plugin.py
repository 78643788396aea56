"""The descriptor of the plugin: data only, so that listing it imports no torch."""

from __future__ import annotations

from quantload.plugin import API, QuantizerPlugin

REQUIRES = ("bitsandbytes>=0.46",)

PLUGIN = QuantizerPlugin(
    api=API,
    config="quantload_bitsandbytes.config:BitsAndBytesConfig",
    quantizer="quantload_bitsandbytes.quantizer:BitsAndBytesQuantizer",
    requires=REQUIRES,
    devices=("cpu", "cuda", "mps", "xpu"),
    summary="NF4, FP4 and LLM.int8 as bitsandbytes has them; quantizes on load",
    demo={
        "NF4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "NF4, double": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
        },
        "FP4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
        "LLM.int8": {"load_in_8bit": True},
    },
)
