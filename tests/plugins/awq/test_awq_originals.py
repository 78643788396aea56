"""Layers packed by autoawq and GPTQModel: numbers in, bytes out."""

from __future__ import annotations

import pytest
import torch
from cases import Case, cases, same_bytes

from quantload import AutoHfQuantizer
from quantload.weights.affine import AffineWeight

ALL = cases("awq")


def packed(case: Case) -> AffineWeight:
    weight = AutoHfQuantizer.from_config(case.config).pack("layer", case.tensors)
    assert isinstance(weight, AffineWeight)
    return weight


@pytest.mark.parametrize("name", ALL)
def test_the_weight_is_the_one_that_was_packed(name: str) -> None:
    case = ALL[name]
    weight = packed(case)
    assert torch.equal(weight.plain_codes(), case.numbers["codes"])
    assert torch.equal(weight.dequantize(torch.float32), case.weight())
    integers = weight.with_zero_points(rounded=True)
    assert torch.equal(integers.zero_points().to(torch.int16), case.numbers["zeros"])


@pytest.mark.parametrize("name", ALL)
def test_unpacking_gives_the_same_bytes(name: str) -> None:
    case = ALL[name]
    quantizer = AutoHfQuantizer.from_config(case.config)
    same_bytes(quantizer.unpack("layer", quantizer.pack("layer", case.tensors)), case.tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL)
def test_the_product_is_right_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    case = ALL[name]
    weight = packed(case)
    x = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(dtype)
    y = weight.linear(x)
    expected = x.double() @ case.weight().double().T
    assert y.dtype == dtype
    error = (y.double() - expected).norm() / expected.norm()
    assert error < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", ALL)
def test_a_weight_on_meta_has_the_shapes_and_bytes_of_the_real_one(name: str) -> None:
    case = ALL[name]
    quantizer = AutoHfQuantizer.from_config(case.config)
    spec = quantizer.spec_for("layer", case.tensors)
    real = quantizer.pack("layer", case.tensors)
    empty = quantizer.empty(spec)
    assert type(empty) is type(real)
    assert {k: (t.shape, t.dtype) for k, t in empty.storage().items()} == {
        k: (t.shape, t.dtype) for k, t in real.storage().items()
    }


@pytest.mark.parametrize("said", ["gemm", "gemv", "gemv_fast", "llm-awq", "GEMM"])
@pytest.mark.parametrize(
    "name", ["awq_gemm_4bit", "awq_gemv_64", "awq_gemv_fast_64", "awq_llm_awq_64"]
)
def test_the_tensors_and_not_the_label_say_which_layout_it_is(name: str, said: str) -> None:
    case = ALL[name]
    raw = {**case.config, "version": said}
    raw.pop("backend", None)
    quantizer = AutoHfQuantizer.from_config(raw)
    weight = quantizer.pack("layer", case.tensors)
    assert torch.equal(weight.dequantize(torch.float32), case.weight())
    same_bytes(quantizer.unpack("layer", weight), case.tensors)


def test_gemm_without_zero_points_has_8_everywhere() -> None:
    case = ALL["awq_gemm_4bit"]
    tensors = {k: t for k, t in case.tensors.items() if k != "qzeros"}
    quantizer = AutoHfQuantizer.from_config({**case.config, "zero_point": False})
    weight = quantizer.pack("layer", tensors)
    assert weight.symmetric
    groups = case.numbers["groups"].long()
    codes = case.numbers["codes"].float() - 8
    assert torch.equal(
        weight.dequantize(torch.float32), codes * case.numbers["scales"].float()[:, groups]
    )
    same_bytes(quantizer.unpack("layer", weight), tensors)


def test_gemm_that_says_no_zero_points_and_has_them_is_read_with_them() -> None:
    case = ALL["awq_gemm_4bit"]
    quantizer = AutoHfQuantizer.from_config({**case.config, "zero_point": False})
    weight = quantizer.pack("layer", case.tensors)
    assert torch.equal(weight.dequantize(torch.float32), case.weight())
    same_bytes(quantizer.unpack("layer", weight), case.tensors)


@pytest.mark.parametrize("name", ["awq_gemm_8bit", "awq_gemm_4bit", "awq_gemm_4bit_rows"])
def test_the_label_marlin_of_gptqmodel_stands_for_gemm_tensors(name: str) -> None:
    case = ALL[name]
    quantizer = AutoHfQuantizer.from_config({**case.config, "version": "marlin"})
    weight = quantizer.pack("layer", case.tensors)
    assert torch.equal(weight.dequantize(torch.float32), case.weight())
    same_bytes(quantizer.unpack("layer", weight), case.tensors)


def test_overrides_of_one_module_count_for_it() -> None:
    small, wide = ALL["awq_gemm_4bit"], ALL["awq_gemm_8bit"]
    raw = {**small.config, "dynamic": {r"+:.*\.1\.": {"bits": 8}}}
    quantizer = AutoHfQuantizer.from_config(raw)
    for name, case in (("layers.0.q", small), ("layers.1.q", wide)):
        weight = quantizer.pack(name, case.tensors)
        assert torch.equal(weight.dequantize(torch.float32), case.weight())
        same_bytes(quantizer.unpack(name, weight), case.tensors)


@pytest.mark.parametrize("name", ALL)
def test_what_unpacking_gives_lies_in_memory_as_in_a_file(name: str) -> None:
    """The qzeros of `gemv_128` have one column, and a transposed row counts as contiguous."""
    case = ALL[name]
    quantizer = AutoHfQuantizer.from_config(case.config)
    for leaf, tensor in quantizer.unpack("layer", quantizer.pack("layer", case.tensors)).items():
        assert tensor.stride() == torch.empty(tensor.shape).stride(), leaf
        assert tensor.view(torch.uint8).numel() == tensor.nbytes
