"""The method's settings and its descriptor; free of torch, so that listings stay quick."""

from dataclasses import dataclass

from quantload.plugin import QuantizationConfig, QuantizerPlugin


@dataclass(frozen=True, kw_only=True)
class Rtn8Config(QuantizationConfig):
    quant_method = "rtn8"


PLUGIN = QuantizerPlugin(
    api=1,
    config="quantload_rtn8.plugin:Rtn8Config",
    quantizer="quantload_rtn8.method:Rtn8Quantizer",
    devices=("cpu", "cuda", "mps", "xpu"),
    summary="int8 with a scale for each row, rounded to nearest",
)
