"""Making a quantizer is cheap: nothing heavy is imported before a tensor is seen."""

from __future__ import annotations

import pytest

from quantload.testing.children import imported_after


@pytest.mark.parametrize(
    "config",
    [
        {"load_in_4bit": True},
        {"load_in_8bit": True},
        {"quant_method": "bitsandbytes_4bit", "bnb_4bit_compute_dtype": "bfloat16"},
    ],
)
def test_a_quantizer_is_made_without_torch_or_the_library(config: dict[str, object]) -> None:
    code = (
        "import quantload\n"
        f"quantizer = quantload.AutoHfQuantizer.from_config({config!r})\n"
        "assert quantizer.quant_method == 'bitsandbytes'\n"
        "quantizer.is_available()\n"
    )
    assert not imported_after(code, "torch", "bitsandbytes", "transformers", "numpy")
