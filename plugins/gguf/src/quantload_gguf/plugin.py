"""The descriptors of the GGUF plugin: data only, no torch."""

from __future__ import annotations

from quantload.plugin import FormatPlugin, QuantizerPlugin

_REQUIRES = ("gguf>=0.17",)

PLUGIN = QuantizerPlugin(
    api=1,
    config="quantload_gguf.config:GgufConfig",
    quantizer="quantload_gguf.quantizer:GgufQuantizer",
    requires=_REQUIRES,
    devices=("cpu", "cuda", "mps", "xpu"),
    summary="GGUF blocks (Q4_0 to Q8_0, K, IQ, TQ, MXFP4, NVFP4), run as they are",
    demo={"GGUF Q8_0": {"type": "Q8_0"}, "GGUF Q4_0": {"type": "Q4_0"}},
)

FORMAT = FormatPlugin(
    api=1,
    reader="quantload_gguf.model:GgufModel",
    writer="quantload_gguf.saving:write_model",
    splitter="quantload_gguf.saving:write_parts",
    requires=_REQUIRES,
    summary="GGUF files, versions 2 and 3, whole or split",
)
