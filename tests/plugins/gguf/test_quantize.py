"""Quantizing gives, byte for byte, what the `gguf` package's quantizers give."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload_gguf import dequantize, ggml_type, quantize
from quantload_gguf.blocks import encode
from quantload_gguf.config import WRITABLE


def reference(values: np.ndarray, kind: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.quantize(values, GGMLQuantizationType[kind])


def assert_same(values: np.ndarray, kind: str) -> None:
    found, expected = (
        quantize(torch.from_numpy(values.copy()), kind).numpy(),
        reference(values, kind),
    )
    if kind in ("Q4_1", "Q5_1"):
        # The minimum of zeros of both signs is either: numpy's depends on their places.
        for blocks in (found, expected):
            high = blocks.reshape(-1, ggml_type(kind).nbytes)[:, 2:4].view(np.uint16)
            high[high == 0x8000] = 0
    np.testing.assert_array_equal(found, expected)


def test_the_writable_types_are_those_with_an_encoder():
    assert set(encode.ENCODERS) == set(WRITABLE)


@pytest.mark.parametrize("kind", WRITABLE)
@pytest.mark.parametrize("shape", [(1, 32), (5, 96), (3, 4, 64), (300, 1024)])
def test_random_weights(kind, shape):
    assert_same(np.random.default_rng(1).standard_normal(shape).astype(np.float32), kind)


@pytest.mark.parametrize("kind", WRITABLE)
def test_weights_of_few_bits_with_many_ties(kind):
    values = np.random.default_rng(2).integers(-8, 9, (500, 64)).astype(np.float32) / 8
    assert_same(values, kind)


@pytest.mark.parametrize("kind", WRITABLE)
@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-42, 1e-38, 1e-9, 1e-5, 1.0, 3e4])
def test_weights_of_every_size(kind, scale):
    values = np.random.default_rng(3).uniform(-1, 1, (40, 64)).astype(np.float32)
    values = (values * np.float32(scale)).astype(np.float32)
    values[7] = 0
    values[8, ::2] = -0.0
    assert_same(values, kind)


@pytest.mark.parametrize("kind", WRITABLE)
def test_one_sided_and_constant_rows(kind):
    values = np.abs(np.random.default_rng(4).standard_normal((6, 32))).astype(np.float32)
    values[1] *= -1
    values[2] = 0.75
    values[3] = -0.75
    values[4, 5:] = 0
    assert_same(values, kind)


@pytest.mark.parametrize("kind", WRITABLE)
@settings(max_examples=60, deadline=None)
@given(
    values=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.sampled_from([32, 64])),
        elements=st.floats(-60000, 60000, width=32, allow_subnormal=True),
    )
)
def test_any_finite_weights(kind, values):
    assert_same(values, kind)


@pytest.mark.parametrize("kind", WRITABLE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_quantized_as_their_float32(kind, dtype):
    weight = torch.randn(9, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    kept = weight.clone()
    expected = reference(weight.float().numpy(), kind)
    np.testing.assert_array_equal(quantize(weight, kind).numpy(), expected)
    assert torch.equal(weight, kept)


@pytest.mark.parametrize("kind", WRITABLE)
def test_more_blocks_than_are_encoded_at_once(kind, monkeypatch):
    monkeypatch.setitem(encode.CHUNK, "cpu", 7 * 32)
    assert_same(np.random.default_rng(5).standard_normal((31, 64)).astype(np.float32), kind)


@pytest.mark.parametrize("kind", WRITABLE)
def test_weights_that_are_not_contiguous(kind):
    weight = torch.randn(64, 48, generator=torch.Generator().manual_seed(1)).T
    np.testing.assert_array_equal(quantize(weight, kind).numpy(), reference(weight.numpy(), kind))


@pytest.mark.parametrize("kind", WRITABLE)
def test_the_error_is_within_a_step(kind):
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(2))
    found = dequantize(quantize(weight, kind), kind)
    blocks = weight.view(-1, 32)
    spread = 2 * blocks.abs().amax(1) / 2 ** int(kind[1])
    step = spread.view(64, -1).repeat_interleave(32, dim=1)
    assert bool(((found - weight).abs() <= step * 1.01).all())


@pytest.mark.parametrize("kind", WRITABLE)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_numbers_that_no_scale_can_hold_are_refused(kind, value):
    weight = torch.randn(2, 32)
    weight[1, 3] = value
    with pytest.raises(UnsupportedOperationError, match=f"quantized to {kind}"):
        quantize(weight, kind)


def test_types_that_are_only_read_and_rows_that_do_not_fit():
    with pytest.raises(UnsupportedOperationError, match="to Q4_K is not implemented; Q4_0, Q4_1"):
        quantize(torch.randn(2, 256), "Q4_K")
    with pytest.raises(CheckpointError, match="40 elements does not fill the blocks of 32"):
        quantize(torch.randn(2, 40), "Q4_0")
    assert quantize(torch.randn(0, 64), "Q8_0").shape == (0, 68)
    assert ggml_type("q8_0").number == 8
