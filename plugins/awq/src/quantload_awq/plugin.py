"""The descriptor of the plugin: data only, so that listing it imports no torch."""

from __future__ import annotations

from quantload.plugin import API, QuantizerPlugin

PLUGIN = QuantizerPlugin(
    api=API,
    config="quantload_awq.config:AwqConfig",
    quantizer="quantload_awq.quantizer:AwqQuantizer",
    devices=("cpu", "cuda", "mps", "xpu"),
    summary="AWQ checkpoints of every layout; rounds to nearest on load",
    demo={"AWQ 4-bit": {"bits": 4, "group_size": 128, "zero_point": True}},
)
