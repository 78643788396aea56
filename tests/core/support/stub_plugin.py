"""A method without bytes, for tests of how plugins are found; imports no torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from quantload.plugin import API, DtypeField, QuantizationConfig, QuantizerPlugin, option
from quantload.quantizers.base import HfQuantizer
from quantload.verdict import Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class StubConfig(QuantizationConfig):
    quant_method = "stub"

    bits: int = option(4, choices=(2, 4, 8))
    group_size: int = option(128, minimum=-1)
    backend: str = option("auto", loading=True)
    compute_dtype: Any = DtypeField("float32", loading=True)
    damp_percent: float = option(0.1, minimum=0, maximum=1, inert=True)
    modules: list[str] | None = None


class StubQuantizer(HfQuantizer):
    def is_serializable(self) -> Verdict:
        return Verdict.yes()

    @property
    def is_trainable(self) -> bool:
        return False

    def preprocess_model(self, model, **kwargs):
        return model


PLUGIN = QuantizerPlugin(api=API, config=StubConfig, quantizer=StubQuantizer)

SOURCE = """
from quantload.plugin import QuantizerPlugin
PLUGIN = QuantizerPlugin(
    api=1,
    config="stub_plugin:StubConfig",
    quantizer="stub_plugin:StubQuantizer",
    summary={summary!r},
)
"""


def plugin_source(summary: str = "") -> str:
    """The text of a descriptor module; `summary` tells one apart from another."""
    return SOURCE.format(summary=summary)
