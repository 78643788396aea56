"""Damaged layers, and layouts that cannot say something: one clear error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import cases
from torch import Tensor

from quantload import AutoHfQuantizer, CheckpointError, UnsupportedOperationError
from quantload.plugin import ModuleSpec
from quantload.weights.affine import AffineWeight

ALL = cases("awq")
NAN = torch.nan


def refused(name: str, changes: dict[str, Tensor | None], match: str, **config: object) -> None:
    case = ALL[name]
    tensors = {k: t for k, t in {**case.tensors, **changes}.items() if t is not None}
    quantizer = AutoHfQuantizer.from_config({**case.config, **config})
    with pytest.raises(CheckpointError, match=match) as caught:
        quantizer.pack("model.layer", tensors)
    assert "model.layer" in str(caught.value)


CHANGES: list[tuple[str, str, Callable[[Tensor], Tensor | None], str]] = [
    ("awq_gemm_4bit", "qweight", lambda t: None, "qweight missing"),
    ("awq_gemm_4bit", "scales", lambda t: None, "scales missing"),
    ("awq_gemm_4bit", "qzeros", lambda t: None, "qzeros missing"),
    ("awq_gemm_4bit", "qweight", lambda t: t[:-1], "2 groups do not divide the 63"),
    (
        "awq_gemm_4bit",
        "qweight",
        lambda t: t[:, :-1],
        r"qweight: shape \[64, 3\], expected \[64, 4\]",
    ),
    ("awq_gemm_4bit", "qweight", lambda t: t.long(), "qweight: dtype I64"),
    ("awq_gemm_4bit", "qzeros", lambda t: t[:, :-1], r"qzeros: shape \[2, 3\], expected \[2, 4\]"),
    ("awq_gemm_4bit", "qzeros", lambda t: t.half(), "qzeros: dtype F16, expected I32"),
    ("awq_gemm_4bit", "scales", lambda t: t * NAN, "scales: 64 of 64 values are NaN"),
    ("awq_gemm_4bit", "scales", lambda t: t.double(), "scales: dtype F64"),
    ("awq_gemv_64", "scales", lambda t: t[:, :-1], "scales: shape"),
    ("awq_gemv_64", "qzeros", lambda t: t[:, :1], "scales: shape"),
    ("awq_gemv_fast_64", "qzeros", lambda t: None, "qzeros missing"),
    ("awq_gemv_fast_64", "qzeros", lambda t: t[:-1], "qzeros: shape"),
    ("awq_gemv_fast_64", "qzeros", lambda t: t * NAN, "qzeros: 256 of 256 values are NaN"),
    ("awq_gemv_fast_64", "qweight", lambda t: t[:, :-1], "multiples of 64"),
    ("awq_llm_awq_64", "scaled_zeros", lambda t: t.float(), "scaled_zeros: dtype F32"),
    ("awq_marlin_128", "scales", lambda t: t[:, :-1], "qweight: shape"),
]


@pytest.mark.parametrize(("name", "leaf", "change", "match"), CHANGES)
def test_a_damaged_tensor(
    name: str, leaf: str, change: Callable[[Tensor], Tensor | None], match: str
) -> None:
    refused(name, {leaf: change(ALL[name].tensors[leaf])}, match)


def test_bits_that_contradict_the_shapes_are_named_with_those_that_fit() -> None:
    refused("awq_gemm_4bit", {}, "the shapes are those of 4 bits", bits=8)
    for name in ("awq_marlin_128", "awq_gemv_64", "awq_gemv_fast_64"):
        refused(
            name, {}, "layout have 4 bits, the quantization config says 3", bits=3, version="gemm"
        )


@pytest.mark.parametrize("name", ["awq_gemv_64", "awq_gemv_fast_64"])
@pytest.mark.parametrize("group_size", [32, 128])
def test_a_group_size_that_the_padding_gives_away(name: str, group_size: int) -> None:
    refused(name, {}, "group_size|groups", group_size=group_size)


def test_a_group_size_within_the_same_padding_is_seen_by_the_scales() -> None:
    refused("awq_gemv_128", {}, "scales for 2 groups, expected 1", group_size=256)


@pytest.mark.parametrize("name", ["gptq_v1_4bit_asym", "gptq_v1_4bit_no_g_idx"])
def test_gptq_tensors_are_refused_with_the_right_method(name: str) -> None:
    case = cases("gptq")[name]
    quantizer = AutoHfQuantizer.from_config({"quant_method": "awq", "group_size": 32})
    with pytest.raises(CheckpointError, match="quant_method should be 'gptq'"):
        quantizer.pack("layer", case.tensors)


def weight(rows: int, columns: int, group_size: int, zero: int = 8, bits: int = 4) -> AffineWeight:
    shape = (rows, -(-columns // group_size))
    return AffineWeight.from_codes(
        torch.zeros(rows, columns, dtype=torch.uint8),
        torch.full(shape, 1 / 3, dtype=torch.float16),
        torch.full(shape, zero),
        bits=bits,
        group_size=group_size,
    )


def out_of_order() -> AffineWeight:
    plain = weight(64, 64, 32)
    order = torch.arange(64, dtype=torch.int32) % 2
    return AffineWeight.from_codes(
        plain.plain_codes(), plain.scales, plain.zeros, bits=4, group_size=32, g_idx=order
    )


@pytest.mark.parametrize(
    ("version", "made", "match"),
    [
        ("gemm", out_of_order(), "columns are out of order"),
        ("gemm", weight(64, 80, 32), "groups of 32 do not divide 80 columns"),
        ("gemm", weight(12, 64, 32), "sides are multiples of 8"),
        ("gemm", weight(64, 64, 32, zero=16), "zero-points reach from 16 to 16"),
        ("gemv", weight(64, 64, 32, bits=3), "it has 4 bits, not 3"),
        ("gemv", weight(64, 80, 8), "groups of 8 are not among"),
        ("gemv", weight(64, 64, 32), "groups of 32, and the config says 128"),
        ("gemv", weight(64, 64, 64), "groups of 64, and the config says 128"),
        ("gemv_fast", weight(64, 96, 32), "multiples of 8 and 64"),
        ("gemv_fast", weight(64, 64, 32, zero=7), "does not fit torch.float16 everywhere"),
        ("marlin", weight(256, 128, 128, zero=7), "zero-points other than 8"),
        ("marlin", weight(256, 128, 64), "groups have 128 columns"),
    ],
)
def test_what_a_layout_cannot_say_is_refused_with_the_reason(
    version: str, made: AffineWeight, match: str
) -> None:
    raw = {"quant_method": "awq", "bits": made.bits, "version": version}
    raw["zero_point"] = version != "marlin"
    quantizer = AutoHfQuantizer.from_config(raw if version == "gemm" else {**raw, "bits": 4})
    with pytest.raises(UnsupportedOperationError, match=match):
        quantizer.unpack("layer", made)


def test_a_shape_that_cannot_be_made_is_refused() -> None:
    made = AutoHfQuantizer.from_config({"quant_method": "awq"}, pre_quantized=False)
    with pytest.raises(
        UnsupportedOperationError, match=r"model\.x: cannot be quantized as AWQ gemm"
    ):
        made.quantize(ModuleSpec("model.x", shape=(64, 64)), torch.randn(64, 64))
