"""Configs of `transformers`, validated under the bridge before anything is loaded."""

from __future__ import annotations

from typing import Any

from transformers import AwqConfig, BitsAndBytesConfig
from transformers.quantizers import AutoHfQuantizer

import quantload

quantload.enable_transformers()

CANDIDATES: dict[str, Any] = {
    "NF4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "AWQ": AwqConfig(bits=4, group_size=128),
    "a type that is not there": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf5"},
    "an unknown method": {"quant_method": "bitsandbites"},
}

for label, config in CANDIDATES.items():
    try:
        quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
        quantizer.validate_environment(device_map={"": "cpu"})
    except quantload.QuantloadError as error:
        print(f"{label}: no: {error}")
    else:
        print(f"{label}: ready ({quantizer.quant_method})")
