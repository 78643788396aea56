"""Dequantizing is right for every shape, and the library's decoder is used only where it is."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantload_bitsandbytes import dequantize4, library
from quantload_bitsandbytes.codebooks import QUANT_TYPES, codebook
from quantload_bitsandbytes.dequantize4 import dequantize_4bit
from quantload_bitsandbytes.quantize4 import FLOATS, quantize_4bit


def by_hand(packed: Tensor, absmax: Tensor, values: Tensor, block_size: int, n: int) -> Tensor:
    """Element by element in numpy, from the format's description alone."""
    codes = np.empty(2 * packed.numel(), dtype=np.int64)
    codes[0::2] = packed.numpy() >> 4
    codes[1::2] = packed.numpy() & 15
    blocks = np.arange(n) // block_size
    return torch.from_numpy(values.numpy()[codes[:n]] * absmax.numpy()[blocks])


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 200),
    block_size=st.sampled_from((32, 64, 256, 4096)),
    quant_type=st.sampled_from(QUANT_TYPES),
    dtype=st.sampled_from((*FLOATS, torch.float64)),
)
@settings(max_examples=150, deadline=None)
def test_any_shape_is_right(
    rows: int, columns: int, block_size: int, quant_type: str, dtype: torch.dtype
) -> None:
    n = rows * columns
    generator = torch.Generator().manual_seed(n)
    packed = torch.randint(0, 256, ((n + 1) // 2,), dtype=torch.uint8, generator=generator)
    absmax = torch.rand(-(-n // block_size), generator=generator)
    values = codebook(quant_type)
    found = dequantize_4bit(packed, absmax, values, block_size, n, dtype)
    assert torch.equal(found, by_hand(packed, absmax, values, block_size, n).to(dtype))


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(123, 457)
    made = quantize_4bit(x, 64)
    whole = dequantize_4bit(made.packed, made.absmax, codebook("nf4"), 64, x.numel())
    monkeypatch.setattr(dequantize4, "CHUNK", 300)
    parts = dequantize_4bit(made.packed, made.absmax, codebook("nf4"), 64, x.numel())
    assert torch.equal(whole, parts)


def test_float32_is_not_rounded_on_the_way() -> None:
    absmax = torch.tensor([1 + 2**-20])
    found = dequantize_4bit(torch.tensor([0xFF], dtype=torch.uint8), absmax, codebook("nf4"), 64, 2)
    assert found.tolist() == [1 + 2**-20] * 2


@pytest.mark.parametrize("quant_type", QUANT_TYPES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_equals_the_library_where_rows_hold_whole_blocks(
    oracle: ModuleType, dtype: torch.dtype, quant_type: str
) -> None:
    x = torch.randn(24, 256).to(dtype)
    packed, state = oracle.quantize_4bit(x, quant_type=quant_type)
    theirs = oracle.dequantize_4bit(packed, state)
    values = codebook(quant_type)
    mine = dequantize_4bit(packed.flatten(), state.absmax, values, 64, x.numel(), dtype)
    assert torch.equal(mine.view(24, 256), theirs)


def test_right_where_the_librarys_cpu_kernel_is_wrong(oracle: ModuleType) -> None:
    """in_features of 96: the error of its AVX-512 kernel is as large as the weights."""
    torch.manual_seed(0)
    x = torch.randn(64, 96)
    packed, state = oracle.quantize_4bit(x, quant_type="nf4")
    mine = dequantize_4bit(packed.flatten(), state.absmax, codebook("nf4"), 64, x.numel())
    expected = by_hand(packed.flatten(), state.absmax, codebook("nf4"), 64, x.numel())
    assert torch.equal(mine, expected)
    assert (mine.view(64, 96) - x).abs().max() < 0.6


needs_decoder = pytest.mark.skipif(
    library.cpu_decoder("nf4", torch.float32, 64) is None,
    reason="the library has no AVX-512 decoder on this machine",
)


@needs_decoder
@pytest.mark.parametrize("quant_type", QUANT_TYPES)
@pytest.mark.parametrize("block_size", [32, 64, 128, 1024, 4096])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_librarys_decoder_gives_the_same_bits_when_rows_are_blocks(
    dtype: torch.dtype, block_size: int, quant_type: str
) -> None:
    decoder = library.cpu_decoder(quant_type, dtype, block_size)
    assert decoder is not None
    n = 5 * block_size
    packed = torch.randint(0, 256, (n // 2,), dtype=torch.uint8)
    absmax = torch.rand(5)
    out = torch.empty(n, dtype=dtype)
    decoder(packed, absmax, out)
    expected = dequantize_4bit(packed, absmax, codebook(quant_type), block_size, n, dtype)
    assert torch.equal(out, expected)


@needs_decoder
def test_a_decoder_that_disagrees_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = library.CpuDecoder.__call__

    def wrong(self: library.CpuDecoder, packed: Tensor, absmax: Tensor, out: Tensor) -> None:
        real(self, packed, absmax, out)
        out[-1] += 1

    monkeypatch.setattr(library.CpuDecoder, "__call__", wrong)
    library.cpu_decoder.cache_clear()
    assert library.cpu_decoder("nf4", torch.float32, 64) is None
    assert "is wrong for blocks of 64" in caplog.text
    library.cpu_decoder.cache_clear()


def test_the_decoder_needs_no_import_of_the_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys, torch; from quantload_bitsandbytes.library import cpu_decoder; "
        "cpu_decoder('nf4', torch.float32, 64); assert 'bitsandbytes' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
