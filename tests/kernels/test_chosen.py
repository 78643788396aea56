"""Products of each row with a weight of its own, chosen on the device."""

from __future__ import annotations

import pytest
import torch
from makers import activations, make_weight, relative_error

pytest.importorskip("triton")
OPTIONS = {
    "zero-points": (4, {}),
    "symmetric": (4, {"symmetric": True}),
    "3 bits": (3, {}),
    "8 bits, bfloat16 scales": (8, {"scale_dtype": torch.bfloat16}),
    "offsets": (4, {"offsets": torch.float32}),
    "act-order": (4, {"act_order": "even"}),
}


def stacked(weights):
    names = weights[0].storage()
    return {name: torch.stack([w.storage()[name] for w in weights]) for name in names}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("kind", OPTIONS)
def test_every_row_has_the_weight_that_was_chosen(kernel, kind, dtype):
    from quantload.kernels.contract import Kernel

    bits, options = OPTIONS[kind]
    weights = [make_weight(bits, 40, 256, 64, seed=seed, **options) for seed in range(3)]
    matrices = [weight.dequantize(torch.float32) for weight in weights]
    for weight in weights:
        weight.repack(kernel)
    x, chosen = activations(5, weights[0], dtype), torch.tensor([2, 0, 0, 1, 2])
    y = kernel.linear_chosen(weights[1], stacked(weights), x, chosen)
    assert y.dtype == dtype
    wanted = torch.stack([matrices[n] @ row for n, row in zip(chosen, x.float(), strict=True)])
    assert relative_error(y, wanted) < 1e-3
    plain = Kernel.linear_chosen(kernel, weights[1], stacked(weights), x, chosen)
    assert relative_error(plain, wanted) < 1e-3


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("nf4", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
        (
            "fp4",
            {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "fp4",
                "bnb_4bit_use_double_quant": True,
            },
        ),
        ("int8", {"load_in_8bit": True}),
    ],
)
def test_weights_of_bitsandbytes_too(name, config):
    import quantload
    from quantload.plugin import ModuleSpec
    from quantload_kernels_triton.codebook import TritonCodebook
    from quantload_kernels_triton.rows8 import TritonRows8

    kernel = {"nf4": TritonCodebook, "fp4": TritonCodebook, "int8": TritonRows8}[name]()
    quantizer = quantload.AutoHfQuantizer.from_config(config)
    generator = torch.Generator().manual_seed(0)
    weights = []
    for number in range(3):
        source = torch.randn(40, 256, generator=generator) * (0.05 + number)
        weights.append(quantizer.quantize(ModuleSpec("layer", shape=(40, 256)), source))
    matrices = [weight.dequantize(torch.float32) for weight in weights]
    for weight in weights:
        weight.repack(kernel)
    x, chosen = torch.randn(4, 256, generator=generator).half(), torch.tensor([1, 2, 0, 1])
    y = kernel.linear_chosen(weights[0], stacked(weights), x, chosen)
    wanted = torch.stack([matrices[n] @ row for n, row in zip(chosen, x.float(), strict=True)])
    assert relative_error(y, wanted) < 1e-3
