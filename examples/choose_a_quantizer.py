"""The dispatch alone: from any description of a method to a quantizer that says what it can."""

from __future__ import annotations

from typing import Any

import torch

from quantload import (
    AutoHfQuantizer,
    BitsAndBytesConfig,
    QuantizationConfig,
    UnknownMethodError,
)
from quantload.plugin import ModuleSpec, WeightQuantizer

DESCRIPTIONS: dict[str, QuantizationConfig | dict[str, Any]] = {
    "a config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "a dict without a method": {"load_in_8bit": True},
    "a checkpoint's own": {"quant_method": "gptq", "bits": 4, "group_size": 128},
}
for label, description in DESCRIPTIONS.items():
    quantizer = AutoHfQuantizer.from_config(description, pre_quantized=False)
    print(f"{label}: {type(quantizer).__name__}, quant_method={quantizer.quant_method}")
    print(f"  available:     {quantizer.is_available()}")
    print(f"  supports cuda: {quantizer.supports_device('cuda')}")
    print(f"  can be saved:  {quantizer.is_serializable()}")

try:
    AutoHfQuantizer.from_config({"quant_method": "bitsandbites"})
except UnknownMethodError as error:
    print(f"a method nobody provides: {error}")

# A quantizer works without a model, too: one layer's weight, there and back.
weight = torch.randn(128, 256)
quantizer = AutoHfQuantizer.from_config({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
assert isinstance(quantizer, WeightQuantizer)
packed = quantizer.quantize(ModuleSpec("layer", shape=(128, 256)), weight)
tensors = quantizer.unpack("layer", packed)
print("one layer as a checkpoint holds it:")
for name, tensor in tensors.items():
    print(f"  layer.{name}: {tuple(tensor.shape)} {tensor.dtype}")
again = quantizer.pack("layer", tensors).dequantize(torch.float32)
lost = (again - weight).norm() / weight.norm()
print(f"  relative error after NF4: {lost:.3f}")
