"""Random codes through every layout and width, against decoders that work element by element."""

from __future__ import annotations

from typing import Any

import pytest
import slow_layouts
import torch
from cases import same_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from quantload import AutoHfQuantizer
from quantload.weights.affine import AffineWeight

STREAMS = [(layout, bits) for layout in ("gptq", "gptq_v2") for bits in (2, 3, 4, 8)]
PLANAR = [("gptq_p", bits) for bits in range(2, 9)]


@st.composite
def layers(draw: st.DrawFn, layout: str, bits: int) -> tuple[dict[str, Any], AffineWeight]:
    whole = layout == "gptq_p" or bits == 3
    rows = draw(st.integers(1, 2)) * 32 if whole else draw(st.integers(1, 40))
    columns = draw(st.integers(1, 3)) * 32 if layout == "gptq_p" else draw(st.integers(1, 70))
    group_size = draw(st.sampled_from([-1, 8, 32, 48]))
    size = columns if group_size == -1 else min(group_size, columns)
    groups = -(-columns // size)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 31)))

    def numbers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    order = torch.arange(columns) // size
    if draw(st.booleans()):
        order = order[torch.randperm(columns, generator=generator)]
    weight = AffineWeight.from_codes(
        numbers(0, 1 << bits, rows, columns).to(torch.uint8),
        (torch.rand(rows, groups, generator=generator) + 0.1).half(),
        numbers(1 if layout == "gptq" else 0, 1 << bits, rows, groups),
        bits=bits,
        group_size=size,
        g_idx=order.to(torch.int32),
    )
    config = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group_size,
        "sym": False,
        "checkpoint_format": layout,
    }
    return config, weight


@pytest.mark.parametrize(("layout", "bits"), STREAMS + PLANAR)
def test_what_is_written_is_read_by_the_slow_decoder_and_again(layout: str, bits: int) -> None:
    @settings(max_examples=12, deadline=None, database=None)
    @given(layer=layers(layout, bits))
    def check(layer: tuple[dict[str, Any], AffineWeight]) -> None:
        config, weight = layer
        rows, columns = weight.shape
        quantizer = AutoHfQuantizer.from_config(config)
        tensors = quantizer.unpack("layer", weight)
        codes = slow_layouts.gptq_codes(tensors["qweight"], bits, columns, layout)
        zeros = slow_layouts.gptq_zeros(tensors["qzeros"], bits, rows, layout)
        assert codes == weight.plain_codes().tolist()
        assert zeros == weight.zero_points().tolist()
        again = quantizer.pack("layer", tensors)
        assert torch.equal(again.dequantize(torch.float32), weight.dequantize(torch.float32))
        same_bytes(quantizer.unpack("layer", again), tensors)

    check()


@pytest.mark.parametrize("word", [torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_random_words_survive_whatever_their_padding(bits: int, word: torch.dtype) -> None:
    """Files need not have come from a writer that clears what it does not use."""
    generator = torch.Generator().manual_seed(bits)
    info = torch.iinfo(word)
    rows, columns, size = 35, 45, 15
    per_word = word.itemsize * 8 // bits

    def words(*shape: int) -> torch.Tensor:
        return torch.randint(info.min, info.max, shape, generator=generator).to(word)

    tensors = {
        "qweight": words(-(-columns // per_word), rows),
        "qzeros": words(3, -(-rows // per_word)),
        "scales": torch.rand(3, rows, generator=generator).half(),
        "g_idx": (torch.arange(columns) // size).to(torch.int64),
    }
    for layout in ("gptq", "gptq_v2"):
        config = {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": size,
            "sym": False,
            "checkpoint_format": layout,
        }
        quantizer = AutoHfQuantizer.from_config(config)
        weight = quantizer.pack("layer", tensors)
        codes = slow_layouts.gptq_codes(tensors["qweight"], bits, columns, layout)
        zeros = slow_layouts.gptq_zeros(tensors["qzeros"], bits, rows, layout)
        assert weight.plain_codes().tolist() == codes
        assert weight.zero_points().tolist() == zeros
        assert not weight.codes[:, -(-columns * bits // 8) :].any()
        same_bytes(quantizer.unpack("layer", weight), tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scales_keep_their_dtype(dtype: torch.dtype) -> None:
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    quantizer = AutoHfQuantizer.from_config(config)
    weight = AffineWeight.from_codes(
        torch.zeros(32, 32, dtype=torch.uint8),
        torch.full((32, 1), 1 / 3).to(dtype),
        bits=4,
        group_size=32,
    )
    tensors = quantizer.unpack("layer", weight)
    assert tensors["scales"].dtype == dtype
    again = quantizer.pack("layer", tensors)
    assert again.dtype == dtype
    assert float(again.dequantize(torch.float32)[0, 0]) == -8 * float(torch.tensor(1 / 3).to(dtype))
