"""Every ggml type against its dequantized numbers, on both ways to add products."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantload.kernels import prepare
from quantload_kernels_cpu.layouts.ggml import LAYOUTS

gguf = pytest.importorskip("gguf")
GgufWeight = pytest.importorskip("quantload_gguf").GgufWeight

HALVES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q2_K": (80, 82), "Q3_K": (108,)}
HALVES |= {"TQ1_0": (52,), "TQ2_0": (64,), "Q4_1": (0, 2), "Q5_1": (0, 2), "MXFP4": ()}
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}


def random_blocks(name, rows, blocks, seed=0):
    """Random bytes, with halves that are finite and of either sign."""
    generator = torch.Generator().manual_seed(seed)
    nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    found = torch.randint(0, 256, (rows * blocks, nbytes), dtype=torch.uint8, generator=generator)
    for place in HALVES.get(name, (0,)):
        half = torch.randn(len(found), 1, generator=generator).mul(0.01).half()
        found[:, place : place + 2] = half.view(torch.uint8)
    if name == "MXFP4":
        found[:, 0] = 118 + found[:, 0] % 16
    return found.view(rows, -1)


def weight_of(name, blocks, dtype=torch.float32):
    weight = GgufWeight.from_blocks(blocks, name, dtype=dtype)
    assert prepare(weight).chosen == "cpu-ggml"
    return weight


def check(weight, x):
    expected = x.double() @ weight.dequantize(torch.float32).double().T
    found = weight.linear(x)
    assert found.dtype == x.dtype
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error < LIMITS[x.dtype], (x.shape, float(error))


@pytest.mark.parametrize("name", LAYOUTS)
def test_products_are_those_with_the_dequantized_weight(name):
    """Rows alone, a few, more than are multiplied at once, and so many that they are decoded."""
    weight = weight_of(name, random_blocks(name, 37, 4))
    for count in (1, 4, 7, 40):
        check(weight, torch.randn(count, weight.shape[1]))


def test_every_number_of_rows():
    weight = weight_of("Q4_K", random_blocks("Q4_K", 67, 2))
    for count in range(41):
        found = weight.linear(torch.randn(count, 512))
        assert found.shape == (count, 67)
        if count:
            check(weight, torch.randn(count, 512))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["Q5_K", "Q6_K"])
def test_narrower_dtypes(name, dtype):
    weight = weight_of(name, random_blocks(name, 130, 1), dtype)
    for count in (1, 4, 40):
        check(weight, torch.randn(count, 256).to(dtype))


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K"])
@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_a_scale_that_is_not_finite_spoils_its_own_row(name, strange):
    blocks = random_blocks(name, 5, 2)
    place = HALVES[name][0]
    blocks[3, place : place + 2] = torch.tensor([strange]).half().view(torch.uint8)
    weight = weight_of(name, blocks)
    found = weight.linear(torch.randn(2, 512))
    assert not found[:, 3].isfinite().any()
    assert found[:, [0, 1, 2, 4]].isfinite().all()


@pytest.mark.parametrize(("first", "size"), [(0, 1e12), (123, 1e-3)])
def test_scales_of_mxfp4_from_the_smallest_to_the_largest(first, size):
    """The first two are denormal; with the last few the dequantized numbers overflow."""
    blocks = random_blocks("MXFP4", 127, 4)
    blocks[:, 0::17] = torch.arange(first, first + 127, dtype=torch.uint8).unsqueeze(1)
    weight = weight_of("MXFP4", blocks)
    x = torch.randn(1, 128) * size
    expected = x.double() @ weight.dequantize(torch.float32).double().T
    norms = weight.dequantize(torch.float32).double().norm(dim=1) * x.double().norm()
    assert ((weight.linear(x).double() - expected).abs() <= 2e-6 * norms).all()


_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from quantload_kernels_cpu import settings
from test_ggml import check, random_blocks, weight_of
assert not settings.vnni()
for name in ("Q4_K", "Q6_K", "IQ4_XS"):
    weight = weight_of(name, random_blocks(name, 9, 4))
    for count in (1,):
        check(weight, torch.randn(count, weight.shape[1]))
"""


def test_the_same_without_avx512():
    folder = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, folder],
        env={**os.environ, "QUANTLOAD_CPU_ISA": "avx2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
