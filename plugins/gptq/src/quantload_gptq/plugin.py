"""The descriptor of the plugin: data only, so that listing it imports no torch."""

from __future__ import annotations

from quantload.plugin import API, QuantizerPlugin

PLUGIN = QuantizerPlugin(
    api=API,
    config="quantload_gptq.config:GPTQConfig",
    quantizer="quantload_gptq.quantizer:GPTQQuantizer",
    devices=("cpu", "cuda", "mps", "xpu"),
    summary="GPTQ checkpoints of every version and width; rounds to nearest on load",
    demo={
        "GPTQ 4-bit": {"bits": 4, "group_size": 128, "sym": True},
        "GPTQ 8-bit": {"bits": 8, "group_size": 128, "sym": True},
        "GPTQ 3-bit": {"bits": 3, "group_size": 64, "sym": False, "checkpoint_format": "gptq_v2"},
    },
)
