"""4-bit quantization equals the library's CPU quantizer, code for code."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantload_bitsandbytes import quantize4
from quantload_bitsandbytes.codebooks import QUANT_TYPES, codebook
from quantload_bitsandbytes.quantize4 import BLOCK_SIZES, FLOATS, quantize_4bit
from quantload_bitsandbytes.rounding import rounding_table
from quantload_bitsandbytes.workspace import Workspace

CPU = torch.device("cpu")


@pytest.fixture
def check(oracle: ModuleType) -> Callable[[Tensor, int, str], None]:
    def compare(x: Tensor, block_size: int, quant_type: str) -> None:
        before = x.clone()
        mine = quantize_4bit(x, block_size, quant_type)
        packed, state = oracle.quantize_4bit(x, blocksize=block_size, quant_type=quant_type)
        assert torch.equal(mine.packed, packed.flatten())
        torch.testing.assert_close(mine.absmax, state.absmax, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)

    return compare


@pytest.mark.parametrize("quant_type", QUANT_TYPES)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_equals_the_library_for_even_and_odd_shapes(
    check: Callable[[Tensor, int, str], None],
    dtype: torch.dtype,
    block_size: int,
    quant_type: str,
) -> None:
    torch.manual_seed(0)
    for shape in ((1, 1), (3, 7), (64, 64), (33, 95), (130, 4097)):
        check((torch.randn(shape) * 0.02).to(dtype), block_size, quant_type)


INF, NAN = math.inf, math.nan
EDGES = {
    "zeros": [0.0] * 64,
    "a NaN": [NAN] + [1.0] * 63,
    "infinities": [INF] + [1.0] * 62 + [-INF],
    "denormals": [1e-40] * 32 + [-1e-41] * 32,
    "tiny beside one": [1.0, -0.0, 0.0, 1e-20, -1e-20, 1e-45, -1e-45] + [0.0] * 57,
    "short block of zeros": [0.0] * 5,
    "short block of denormals": [1e-40] * 3,
    "short block of NaNs": [NAN] * 3,
    "short block after a full one": [1.0] * 64 + [0.0] * 3,
    "negatives only": [-1.0] * 40 + [-0.3] * 24,
    "largest floats": [3.4e38, -3.4e38, 1e38] + [1.0] * 61,
}


@pytest.mark.parametrize("quant_type", QUANT_TYPES)
@pytest.mark.parametrize("case", EDGES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_equals_the_library_at_the_edges(
    check: Callable[[Tensor, int, str], None], dtype: torch.dtype, case: str, quant_type: str
) -> None:
    check(torch.tensor(EDGES[case]).to(dtype), 64, quant_type)


@pytest.mark.parametrize("quant_type", QUANT_TYPES)
def test_equals_the_library_at_and_beside_every_bound(
    check: Callable[[Tensor, int, str], None], quant_type: str
) -> None:
    bounds = rounding_table(quant_type, CPU).bounds
    near = torch.cat([(bounds.view(torch.int32) + k).view(torch.float32) for k in range(-40, 41)])
    near = near[torch.isfinite(near) & (near.abs() <= 1)]
    rows = near[: near.numel() // 63 * 63].view(-1, 63)
    check(torch.cat([torch.ones(len(rows), 1), rows], 1), 64, quant_type)


@pytest.mark.parametrize("quant_type", QUANT_TYPES)
@pytest.mark.parametrize("largest", [1.0, 1.0078125, 1.9921875, 0.30078125])
def test_equals_the_library_for_every_bfloat16(
    check: Callable[[Tensor, int, str], None], largest: float, quant_type: str
) -> None:
    every = torch.arange(65536).to(torch.int32).to(torch.int16).view(torch.bfloat16)
    every = every[torch.isfinite(every) & (every.abs() <= largest)]
    rows = every[: every.numel() // 63 * 63].view(-1, 63)
    first = torch.full((len(rows), 1), largest, dtype=torch.bfloat16)
    check(torch.cat([first, rows], 1), 64, quant_type)


@given(
    numbers=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True),
        min_size=1,
        max_size=200,
    ),
    block_size=st.sampled_from((32, 64, 128)),
    quant_type=st.sampled_from(QUANT_TYPES),
    dtype=st.sampled_from(FLOATS),
)
@settings(max_examples=300, deadline=None)
def test_equals_the_library_for_any_numbers(
    oracle: ModuleType,
    numbers: list[float],
    block_size: int,
    quant_type: str,
    dtype: torch.dtype,
) -> None:
    x = torch.tensor(numbers, dtype=torch.float32).to(dtype)
    mine = quantize_4bit(x, block_size, quant_type)
    packed, state = oracle.quantize_4bit(x, blocksize=block_size, quant_type=quant_type)
    assert torch.equal(mine.packed, packed.flatten())
    torch.testing.assert_close(mine.absmax, state.absmax, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("quant_type", QUANT_TYPES)
def test_many_chunks_on_several_threads_equal_one(
    monkeypatch: pytest.MonkeyPatch, quant_type: str
) -> None:
    torch.manual_seed(1)
    x = torch.randn(301, 1001).bfloat16()
    whole = quantize_4bit(x, 64, quant_type)
    monkeypatch.setattr(quantize4, "CHUNK", 4096)
    parts = quantize_4bit(x, 64, quant_type, Workspace())
    assert torch.equal(whole.packed, parts.packed)
    assert torch.equal(whole.absmax, parts.absmax)


def test_a_transposed_view_is_quantized_as_its_copy() -> None:
    x = torch.randn(70, 130)
    view, copy = quantize_4bit(x.t(), 64), quantize_4bit(x.t().contiguous(), 64)
    assert torch.equal(view.packed, copy.packed)
    assert torch.equal(view.absmax, copy.absmax)


def test_one_workspace_serves_layers_of_any_size() -> None:
    workspace = Workspace()
    for shape in ((5, 64), (700, 1000), (64, 64), (1, 1)):
        x = torch.randn(shape)
        again, fresh = quantize_4bit(x, 64, "nf4", workspace), quantize_4bit(x, 64, "nf4")
        assert torch.equal(again.packed, fresh.packed)
    assert workspace.nbytes < 64 << 20


def test_inside_inference_mode_and_under_a_meta_default_device() -> None:
    x = torch.randn(40, 64)
    expected = quantize_4bit(x)
    with torch.inference_mode(), torch.device("meta"):
        found = quantize_4bit(x)
    assert found.packed.device.type == "cpu"
    assert torch.equal(found.packed, expected.packed)


@pytest.mark.parametrize("quant_type", QUANT_TYPES)
def test_every_code_decodes_to_the_value_nearest_to_the_number(quant_type: str) -> None:
    torch.manual_seed(2)
    x = torch.randn(4096)
    made = quantize_4bit(x, 4096, quant_type)
    codes = torch.stack([made.packed >> 4, made.packed & 15], 1).flatten().long()
    values = codebook(quant_type)
    scaled = x / made.absmax
    best = (scaled[:, None] - values).abs().amin(1)
    assert torch.all((scaled - values[codes]).abs() <= best + 1e-7)


def test_other_dtypes_and_block_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        quantize_4bit(torch.zeros(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="block_size: found 48"):
        quantize_4bit(torch.zeros(4), 48)
    with pytest.raises(ValueError, match="quant_type"):
        quantize_4bit(torch.zeros(4), 64, "int4")


def test_an_empty_weight_has_no_codes() -> None:
    made = quantize_4bit(torch.zeros(0, 64))
    assert made.packed.numel() == 0
    assert made.absmax.numel() == 0
