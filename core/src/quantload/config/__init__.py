"""Quantization configs: typed, validated, merged."""

from __future__ import annotations

from quantload.config.base import QuantizationConfig, QuantizationConfigMixin
from quantload.config.dtypes import DtypeField
from quantload.config.fields import option

__all__ = ["DtypeField", "QuantizationConfig", "QuantizationConfigMixin", "option"]
