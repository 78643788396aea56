"""Row-wise int8 equals the library's, and the product follows its outlier rule."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantload_bitsandbytes import int8
from quantload_bitsandbytes.int8 import (
    dequantize_rows,
    int8_linear,
    quantize_input,
    quantize_rows,
)
from quantload_bitsandbytes.workspace import Workspace

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def _library(bnb: ModuleType, weight: Tensor) -> tuple[Tensor, Tensor]:
    made = bnb.nn.Int8Params(weight.clone(), requires_grad=False).to("cpu")
    return made.data, made.SCB


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("scale", [1e-8, 1e-4, 0.02, 3.0, 1e4])
def test_equals_the_library(bnb: ModuleType, scale: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for shape in ((1, 1), (3, 7), (64, 64), (33, 95), (130, 4097), (513, 1)):
        weight = (torch.randn(shape) * scale).to(dtype)
        codes, scales = quantize_rows(weight)
        their_codes, their_scales = _library(bnb, weight)
        assert torch.equal(scales, their_scales)
        assert torch.equal(codes, their_codes)


@given(
    st.lists(
        st.floats(min_value=-65504, max_value=65504, width=32, allow_subnormal=True),
        min_size=1,
        max_size=64,
    ),
    st.sampled_from(FLOATS),
)
@settings(max_examples=200, deadline=None)
def test_equals_the_library_for_any_row(
    bnb: ModuleType, numbers: list[float], dtype: torch.dtype
) -> None:
    weight = torch.tensor([numbers, numbers[::-1]], dtype=torch.float32).to(dtype)
    if not torch.isfinite(weight.to(torch.float16)).all():
        return  # rounded up past what float16 holds: see the next test
    codes, scales = quantize_rows(weight)
    their_codes, their_scales = _library(bnb, weight)
    assert torch.equal(codes, their_codes)
    assert torch.equal(scales, their_scales)


@pytest.mark.parametrize("number", [math.nan, math.inf, 70000.0])
def test_what_float16_cannot_hold_shows_in_the_scale_as_in_the_library(
    bnb: ModuleType, number: float
) -> None:
    weight = torch.tensor([[number, 1.0], [1.0, 2.0]])
    _, scales = quantize_rows(weight)
    torch.testing.assert_close(scales, _library(bnb, weight)[1], equal_nan=True)
    assert not torch.isfinite(scales[0])
    assert scales[1] == 2


def test_chunks_and_transposed_views_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(77, 501).bfloat16()
    codes, scales = quantize_rows(weight)
    monkeypatch.setattr(int8, "CHUNK", 1200)
    view_codes, view_scales = quantize_rows(weight.t().contiguous().t(), Workspace())
    assert torch.equal(codes, view_codes)
    assert torch.equal(scales, view_scales)


def test_a_weight_without_columns_has_scales_of_zero() -> None:
    codes, scales = quantize_rows(torch.zeros(3, 0))
    assert codes.shape == (3, 0)
    assert scales.tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dequantizing_is_the_librarys_arithmetic_rounded_once(
    oracle: ModuleType, dtype: torch.dtype
) -> None:
    codes, scales = quantize_rows(torch.randn(50, 70))
    theirs = oracle.int8_vectorwise_dequant(codes, scales)
    assert torch.equal(dequantize_rows(codes, scales, dtype), theirs.to(dtype))


@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize("rows", [1, 5])
def test_input_is_quantized_as_the_library_does(
    oracle: ModuleType, rows: int, threshold: float
) -> None:
    torch.manual_seed(3)
    x = torch.randn(rows, 96).half()
    x[0, 10] = 30.0
    x[-1, 20] = -6.0
    codes, scales, columns = quantize_input(x, threshold)
    their_codes, their_scales, their_columns = oracle.int8_vectorwise_quant(x.clone(), threshold)
    assert torch.equal(codes, their_codes)
    assert torch.equal(scales, their_scales)
    if threshold:
        assert columns is not None
        assert columns.tolist() == their_columns.tolist() == [10, 20]
    else:
        assert columns is None


@pytest.mark.parametrize("dtype", FLOATS[1:], ids=str)
@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize("shape", [(1, 7, 3), (5, 95, 33), (17, 256, 128), (64, 300, 7)])
def test_product_errs_no_more_than_the_librarys(
    bnb: ModuleType, shape: tuple[int, int, int], threshold: float, dtype: torch.dtype
) -> None:
    rows, columns, outputs = shape
    torch.manual_seed(sum(shape))
    codes, scales = quantize_rows(torch.randn(outputs, columns) * 0.02)
    x = torch.randn(rows, columns)
    x[0, columns // 2] = 40.0
    x = x.to(dtype)
    state = bnb.MatmulLtState()
    state.CB, state.SCB, state.threshold = codes.clone(), scales, threshold
    state.has_fp16_weights, state.is_training = False, False
    theirs = bnb.matmul(x, codes, state=state).double()
    mine = int8_linear(x, codes, scales, threshold).double()
    true = x.double() @ dequantize_rows(codes, scales).double().T
    bound = (theirs - true).norm()
    assert (mine - true).norm() <= 1.05 * bound + 1e-3 * true.norm()
    assert (mine - theirs).norm() <= 4e-3 * true.norm()


def test_outlier_columns_are_multiplied_in_floating_point() -> None:
    torch.manual_seed(0)
    codes, scales = quantize_rows(torch.randn(16, 64))
    x = torch.randn(4, 64) * 0.1
    x[:, 5] = 1000.0
    true = x @ dequantize_rows(codes, scales).T
    with_rule = (int8_linear(x, codes, scales, 6.0) - true).abs().max()
    without = (int8_linear(x, codes, scales, 0.0) - true).abs().max()
    assert with_rule < 0.02
    assert without > 20 * with_rule


def test_rows_of_zeros_stay_zero() -> None:
    codes, scales = quantize_rows(torch.randn(6, 8))
    x = torch.zeros(3, 8)
    x[1] = 1.0
    product = int8_linear(x, codes, scales, 0.0)
    assert torch.equal(product[0], torch.zeros(6))
    assert torch.isfinite(product).all()
