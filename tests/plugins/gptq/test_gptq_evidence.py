"""Files that are labelled as what they are not: read with a note, or refused, never wrong."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from cases import cases, same_bytes

from quantload import AutoHfQuantizer, CheckpointError
from quantload.weights.affine import AffineWeight
from quantload_gptq import evidence

LAYOUTS = {
    2: ("gptq", "gptq_v2"),
    3: ("gptq", "gptq_v2", "gptq_p"),
    4: ("gptq", "gptq_v2"),
    8: ("gptq", "gptq_v2"),
}
PAIRS = [
    (bits, made, told)
    for bits, layouts in LAYOUTS.items()
    for made in layouts
    for told in layouts
    if made != told
]


@pytest.fixture(autouse=True)
def _nothing_told_yet() -> None:
    evidence._told.clear()


def symmetric(bits: int) -> AffineWeight:
    generator = torch.Generator().manual_seed(bits)
    return AffineWeight.from_codes(
        torch.randint(0, 1 << bits, (64, 64), generator=generator, dtype=torch.uint8),
        torch.rand(64, 2, generator=generator).half(),
        bits=bits,
        group_size=32,
    )


def config(bits: int, layout: str, **more: Any) -> dict[str, Any]:
    base = {"quant_method": "gptq", "bits": bits, "group_size": 32, "sym": True}
    return {**base, "checkpoint_format": layout, **more}


@pytest.mark.parametrize(("bits", "made", "told"), PAIRS)
def test_a_symmetric_layer_under_the_wrong_label_is_read_right_and_told(
    bits: int, made: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    weight = symmetric(bits)
    tensors = AutoHfQuantizer.from_config(config(bits, made)).unpack("layer", weight)
    quantizer = AutoHfQuantizer.from_config(config(bits, told))
    with caplog.at_level(logging.WARNING, "quantload.gptq"):
        read = quantizer.pack("layer", tensors)
    assert torch.equal(read.dequantize(torch.float32), weight.dequantize(torch.float32))
    assert f"read as {made}" in caplog.text
    same_bytes(quantizer.unpack("layer", read), tensors)


def test_the_note_is_said_once_for_all_layers(caplog: pytest.LogCaptureFixture) -> None:
    tensors = AutoHfQuantizer.from_config(config(4, "gptq_v2")).unpack("layer", symmetric(4))
    quantizer = AutoHfQuantizer.from_config(config(4, "gptq"))
    with caplog.at_level(logging.WARNING, "quantload.gptq"):
        for name in ("a", "b", "c"):
            quantizer.pack(name, tensors)
    assert len(caplog.records) == 1


def test_an_asymmetric_config_counts_and_a_suspicion_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tensors = AutoHfQuantizer.from_config(config(4, "gptq_v2")).unpack("layer", symmetric(4))
    quantizer = AutoHfQuantizer.from_config(config(4, "gptq", sym=False))
    with caplog.at_level(logging.WARNING, "quantload.gptq"):
        read = quantizer.pack("layer", tensors)
    assert int(read.zero_points().unique()) == 9
    assert "set checkpoint_format to 'gptq_v2'" in caplog.text


@pytest.mark.parametrize("name", ["gptq_v1_4bit_asym", "gptq_v2_4bit_asym", "gptq_p_3bit"])
def test_a_config_that_says_symmetric_does_not_spoil_an_asymmetric_layer(name: str) -> None:
    case = cases("gptq")[name]
    read = AutoHfQuantizer.from_config({**case.config, "sym": True}).pack("layer", case.tensors)
    assert torch.equal(read.dequantize(torch.float32), case.weight())


@pytest.mark.parametrize("told", ["gptq", "gptq_v2"])
def test_marlin_tensors_are_known_by_their_names(told: str) -> None:
    case = cases("gptq")["gptq_marlin_128"]
    raw = {"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": told}
    quantizer = AutoHfQuantizer.from_config(raw)
    read = quantizer.pack("layer", case.tensors)
    assert torch.equal(read.dequantize(torch.float32), case.weight())
    same_bytes(quantizer.unpack("layer", read), case.tensors)


@pytest.mark.parametrize("name", ["gptq_v1_4bit_sym", "gptq_v1_4bit_act_order"])
def test_plain_tensors_under_the_label_marlin_are_read_as_what_they_are(name: str) -> None:
    case = cases("gptq")[name]
    raw = {**case.config, "sym": True, "checkpoint_format": "marlin"}
    read = AutoHfQuantizer.from_config(raw).pack("layer", case.tensors)
    assert torch.equal(read.dequantize(torch.float32), case.weight())


def test_the_group_size_of_the_file_counts() -> None:
    case = cases("gptq")["gptq_v1_4bit_no_g_idx"]
    read = AutoHfQuantizer.from_config({**case.config, "group_size": 64}).pack(
        "layer", case.tensors
    )
    assert read.group_size == 32
    assert torch.equal(read.dequantize(torch.float32), case.weight())


def test_awq_tensors_are_refused_with_the_right_method() -> None:
    case = cases("awq")["awq_gemm_4bit"]
    quantizer = AutoHfQuantizer.from_config({"quant_method": "gptq", "bits": 4, "group_size": 32})
    with pytest.raises(CheckpointError, match="quant_method should be 'awq'"):
        quantizer.pack("layer", case.tensors)


@pytest.mark.parametrize("name", ["gptq_v1_8bit_sym", "gptq_v1_2bit_sym"])
def test_the_label_marlin_does_not_refuse_other_widths_in_plain_tensors(name: str) -> None:
    """GPTQModel gives that name to layers of 8 bits, too, and stores none of them packed for it."""
    case = cases("gptq")[name]
    quantizer = AutoHfQuantizer.from_config({**case.config, "checkpoint_format": "marlin"})
    read = quantizer.pack("layer", case.tensors)
    assert torch.equal(read.dequantize(torch.float32), case.weight())
    same_bytes(quantizer.unpack("layer", read), case.tensors)
