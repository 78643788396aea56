"""Is a config right, and can it run here? Asked before anything is loaded."""

from __future__ import annotations

from typing import Any

from _model import checkpoint

from quantload import AutoHfQuantizer, ConfigError, QuantloadError, open_checkpoint
from quantload.plugin import WeightQuantizer

CANDIDATES: dict[str, dict[str, Any]] = {
    "NF4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "a type that is not there": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf5"},
    "both widths": {"load_in_4bit": True, "load_in_8bit": True},
    "GPTQ in groups": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "GPTQ of nine bits": {"quant_method": "gptq", "bits": 9, "group_size": 128},
    "GGUF without a type": {"quant_method": "gguf"},
    "an unknown method": {"quant_method": "bitsandbites"},
}


def validate(config: dict[str, Any], device: str = "cpu") -> str:
    """What loading a float checkpoint with this config would run into, or "ready"."""
    try:
        quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
        quantizer.validate_environment(device_map=device)
    except ConfigError as error:
        return (
            f"no: {error.field or 'config'} is {error.value!r}, expected {error.allowed or error}"
        )
    except QuantloadError as error:
        return f"no: {error}"
    if isinstance(quantizer, WeightQuantizer) and not quantizer.can_quantize():
        return f"no: {quantizer.can_quantize().reason}"
    return "ready"


for label, candidate in CANDIDATES.items():
    print(f"{label}: {validate(candidate)}")

with open_checkpoint(checkpoint()) as opened:  # headers only: no weight is read
    print(f"the checkpoint holds {len(opened)} tensors, {opened.nbytes / 1e6:.2f} MB")
