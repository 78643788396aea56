"""`AutoHfQuantizer.from_config` of `transformers`, with `quant_method` and `is_available()`."""

from __future__ import annotations

from transformers import AwqConfig, BitsAndBytesConfig, GPTQConfig
from transformers.quantizers import AutoHfQuantizer

import quantload

with quantload.enable_transformers():
    for config in (
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype="bfloat16"),
        GPTQConfig(bits=4, group_size=128),
        AwqConfig(bits=4, group_size=128),
        {"quant_method": "aqlm", "num_codebooks": 2, "nbits_per_codebook": 8},
    ):
        quantizer = AutoHfQuantizer.from_config(config)
        print(f"{type(quantizer).__name__}: supports {quantizer.quant_method}")
        if quantizer.is_available():
            print("  it is ready to use")
        else:
            print(f"  it cannot run here: {quantizer.is_available()}")

    try:
        AutoHfQuantizer.from_config({"quant_method": "bitsandbites"})
    except quantload.UnknownMethodError as error:
        print(f"a method nobody provides: {error}")
