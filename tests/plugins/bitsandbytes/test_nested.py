"""Double quantization equals the library's."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantload_bitsandbytes.codebooks import dynamic_map
from quantload_bitsandbytes.nested import dequantize_absmax, quantize_absmax


def _check(oracle: ModuleType, absmax: Tensor) -> None:
    offset = absmax.mean()
    codes, state = oracle.quantize_blockwise(absmax - offset, blocksize=256)
    mine = quantize_absmax(absmax)
    assert torch.equal(mine.codes, codes)
    assert torch.equal(mine.absmax, state.absmax)
    assert torch.equal(mine.offset, offset)
    theirs = oracle.dequantize_blockwise(codes, state) + offset
    back = dequantize_absmax(mine.codes, mine.absmax, dynamic_map(), mine.offset.item())
    assert torch.equal(back, theirs)


@pytest.mark.parametrize("n", [1, 5, 255, 256, 257, 4096, 90112, 300003])
def test_equals_the_library(oracle: ModuleType, n: int) -> None:
    torch.manual_seed(n)
    _check(oracle, torch.rand(n) * 0.1)
    _check(oracle, torch.full((n,), 0.3))
    spread = torch.randn(n).abs() * 1e-3
    spread[0] = 5.0
    _check(oracle, spread)


@given(
    st.lists(
        st.floats(min_value=0, max_value=2.0**66, width=32, allow_subnormal=True),
        min_size=1,
        max_size=600,
    )
)
@settings(max_examples=200, deadline=None)
def test_equals_the_library_for_any_absmax(oracle: ModuleType, numbers: list[float]) -> None:
    _check(oracle, torch.tensor(numbers, dtype=torch.float32))


@pytest.mark.parametrize(
    "block",
    [
        [0.0] * 256,
        [math.nan] + [1.0] * 255,
        [math.inf] + [1.0] * 254 + [-math.inf],
        [1e-40] * 128 + [-1e-41] * 128,
        [-1.0] * 256,
    ],
    ids=["zeros", "NaN", "infinities", "denormals", "negative"],
)
def test_codes_of_odd_blocks_equal_the_librarys(
    oracle: ModuleType, monkeypatch: pytest.MonkeyPatch, block: list[float]
) -> None:
    # Blocks whose mean is 0 go through unchanged; these are handed to both with no mean taken.
    centred = torch.tensor(block)
    theirs, state = oracle.quantize_blockwise(centred, blocksize=256)
    monkeypatch.setattr(torch.Tensor, "mean", lambda self: torch.zeros(()))
    mine = quantize_absmax(centred)
    assert torch.equal(mine.codes, theirs)
    assert torch.equal(mine.absmax, state.absmax)


def test_a_step_of_the_table_is_never_off() -> None:
    """The library may or may not fuse its multiplication and addition: it makes no difference."""
    k = torch.arange(0, 2**23 + 1, dtype=torch.float64)
    for shifted in (k * 2**-23, 1 + k * 2**-23):
        exact = shifted.float()
        assert torch.equal(exact.double(), shifted)
        plain = (exact * 32767.5 + 0.5).to(torch.int32)
        fused = (shifted * 32767.5 + 0.5).float().to(torch.int32)
        assert torch.equal(plain, fused)
