"""GPTQ to AWQ and back: the same numbers, or an error that says why not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from quantload import AutoHfQuantizer, UnsupportedOperationError

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "gptq" / "support"))
from cases import cases, same_bytes

GPTQ, AWQ = cases("gptq"), cases("awq")
V2 = "gptq_v2"


def gptq(**config: object) -> object:
    return AutoHfQuantizer.from_config({"quant_method": "gptq", **config})


def awq(**config: object) -> object:
    return AutoHfQuantizer.from_config({"quant_method": "awq", **config})


def source(name: str) -> tuple[object, object]:
    case = {**GPTQ, **AWQ}[name]
    quantizer = AutoHfQuantizer.from_config(case.config)
    return case, quantizer.pack("layer", case.tensors)


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in AWQ
        if "fast" not in n and "llm" not in n and not n.endswith(("5bit", "6bit", "7bit"))
    ],
)
def test_awq_becomes_gptq_v2_and_awq_again(name: str) -> None:
    case, weight = source(name)
    target = gptq(bits=weight.bits, group_size=weight.group_size, sym=False, checkpoint_format=V2)
    tensors = target.unpack("layer", weight)
    assert {"qweight", "qzeros", "scales", "g_idx"} == set(tensors)
    read = target.pack("layer", tensors)
    assert torch.equal(read.dequantize(torch.float32), case.weight())
    if "marlin" not in name:  # these were packed in fewer rows than Marlin's kernel takes
        back = AutoHfQuantizer.from_config(case.config)
        same_bytes(back.unpack("layer", read), case.tensors)


@pytest.mark.parametrize("version", ["gemm", "gemv"])
@pytest.mark.parametrize("name", ["gptq_v1_4bit_sym", "gptq_v2_4bit_asym", "gptq_v1_4bit_no_g_idx"])
def test_gptq_becomes_awq_and_gptq_again(name: str, version: str) -> None:
    case, weight = source(name)
    target = awq(group_size=32, version=version)
    tensors = target.unpack("layer", weight)
    assert "g_idx" not in tensors
    read = target.pack("layer", tensors)
    assert torch.equal(read.dequantize(torch.float32), case.weight())
    back = AutoHfQuantizer.from_config(case.config)
    again = back.unpack("layer", read)
    again = {name: tensor for name, tensor in again.items() if name in case.tensors}
    same_bytes(again, case.tensors)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_other_widths_convert_through_gemm(bits: int) -> None:
    case, weight = source(f"gptq_v2_{bits}bit_asym")
    target = awq(bits=bits, group_size=32)
    read = target.pack("layer", target.unpack("layer", weight))
    assert torch.equal(read.dequantize(torch.float32), case.weight())


@pytest.mark.parametrize("bits", [5, 6, 7])
def test_planar_widths_convert_through_gemm(bits: int) -> None:
    case, weight = source(f"gptq_p_{bits}bit")
    target = awq(bits=bits, group_size=32)
    read = target.pack("layer", target.unpack("layer", weight))
    assert torch.equal(read.dequantize(torch.float32), case.weight())
    back = AutoHfQuantizer.from_config(case.config)
    same_bytes(back.unpack("layer", read), case.tensors)


def test_marlin_of_the_one_is_marlin_of_the_other() -> None:
    theirs, weight = source("awq_marlin_128")
    plain = gptq(bits=4, group_size=128, sym=True)
    read = plain.pack("layer", plain.unpack("layer", weight))
    target = awq(group_size=128, version="marlin", zero_point=False)
    with pytest.raises(UnsupportedOperationError, match="multiples of 256"):
        target.unpack("layer", read)  # the packers were run on fewer rows than kernels take
    assert torch.equal(read.dequantize(torch.float32), theirs.weight())


def test_versions_of_gptq_convert_into_each_other() -> None:
    case, weight = source("gptq_v2_4bit_asym")
    target = gptq(bits=4, group_size=32, sym=False)
    with pytest.raises(UnsupportedOperationError, match="use checkpoint_format='gptq_v2'"):
        target.unpack("layer", weight)  # it has zero-points of 0
    case, weight = source("gptq_v1_4bit_asym")
    target = gptq(bits=4, group_size=32, sym=False, checkpoint_format=V2)
    read = target.pack("layer", target.unpack("layer", weight))
    assert torch.equal(read.dequantize(torch.float32), case.weight())
    back = AutoHfQuantizer.from_config(case.config)
    same_bytes(back.unpack("layer", read), case.tensors)


@pytest.mark.parametrize("name", ["awq_gemv_fast_64", "awq_llm_awq_64"])
def test_rounded_offsets_are_refused_and_converted_when_asked(name: str) -> None:
    case, weight = source(name)
    target = gptq(bits=4, group_size=64, sym=False, checkpoint_format=V2)
    with pytest.raises(UnsupportedOperationError, match=r"integer zero-points.*rounded"):
        target.unpack("layer", weight)
    integers = weight.with_zero_points(rounded=True)
    read = target.pack("layer", target.unpack("layer", integers))
    groups = case.numbers["groups"].long()
    codes = case.numbers["codes"].float() - case.numbers["zeros"].float()[:, groups]
    exact = case.numbers["scales"].float()[:, groups] * codes
    assert torch.equal(read.dequantize(torch.float32), exact)
    back = AutoHfQuantizer.from_config(case.config)
    same_bytes(back.unpack("layer", read.with_offsets(rounded=True)), case.tensors)


def test_symmetric_offsets_are_exact_and_convert_by_themselves() -> None:
    case, weight = source("gptq_v1_4bit_sym")
    target = awq(group_size=32, version="gemv_fast")
    tensors = target.unpack("layer", weight)
    read = target.pack("layer", tensors)
    assert read.offsets is not None
    assert torch.equal(read.dequantize(torch.float32), case.weight())
    back = AutoHfQuantizer.from_config(case.config)
    same_bytes(back.unpack("layer", read), case.tensors)


def test_columns_out_of_order_stay_gptq() -> None:
    _, weight = source("gptq_v1_4bit_act_order")
    with pytest.raises(UnsupportedOperationError, match=r"out of order \(desc_act\)"):
        awq(group_size=32).unpack("layer", weight)
