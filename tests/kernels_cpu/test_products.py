"""The products themselves, on the simplest of the layouts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from quantload.kernels import prepare

gguf = pytest.importorskip("gguf")
GgufWeight = pytest.importorskip("quantload_gguf").GgufWeight

LIMITS = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}


def make(rows, columns, dtype, seed=0):
    numbers = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    blocks = gguf.quantize(numbers.numpy(), gguf.GGMLQuantizationType.Q8_0)
    weight = GgufWeight.from_blocks(torch.from_numpy(blocks), "Q8_0", dtype=dtype)
    assert prepare(weight).chosen == "cpu-ggml"
    return weight


def wanted(weight, x):
    return x.double() @ weight.dequantize(torch.float32).double().T


def assert_near(found, expected):
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error < LIMITS[found.dtype]


@pytest.mark.parametrize("dtype", list(LIMITS), ids=str)
@pytest.mark.parametrize("columns", [32, 352])
def test_any_number_of_rows_and_a_last_step_that_is_short(dtype, columns):
    weight = make(33, columns, dtype)
    for count in (1, 2, 3, 5, 8, 40):
        x = torch.randn(count, columns).to(dtype)
        found = weight.linear(x)
        assert found.dtype == dtype
        assert_near(found, wanted(weight, x))


def test_no_rows_more_dimensions_and_strides():
    weight = make(33, 64, torch.float32)
    assert weight.linear(torch.randn(0, 64)).shape == (0, 33)
    x = torch.randn(2, 3, 64)
    assert_near(weight.linear(x), wanted(weight, x))
    assert weight.linear(x[0, 0]).shape == (33,)
    for strided in (torch.randn(64, 5).T, torch.randn(5, 128)[:, ::2], torch.randn(5, 70)[:, 3:67]):
        assert_near(weight.linear(strided), wanted(weight, strided))
    expanded = torch.randn(1, 64).expand(4, 64)
    assert_near(weight.linear(expanded), wanted(weight, expanded))


def test_outliers_and_zeros_keep_their_precision():
    """Each run of columns has a factor of its own, so a huge number spoils only its own run."""
    weight = make(33, 512, torch.float32)
    x = torch.randn(1, 512)
    x[0, 300] = 3e4
    x[0, :128] = 0
    found, expected = weight.linear(x), wanted(weight, x)
    assert_near(found, expected)
    assert torch.equal(weight.linear(torch.zeros(2, 512)), torch.zeros(2, 33))
    tiny = torch.randn(1, 512) * 1e-30
    assert_near(weight.linear(tiny), wanted(weight, tiny))


@pytest.mark.parametrize("strange", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so_in_its_own_row(strange):
    weight = make(33, 64, torch.bfloat16)
    x = torch.randn(3, 64).bfloat16()
    x[1, 7] = strange
    found = weight.linear(x)
    assert not found[1].isfinite().any()
    assert found[0].isfinite().all()
    assert found[2].isfinite().all()


def test_the_number_of_threads_changes_nothing():
    weight, x = make(700, 256, torch.float32), torch.randn(5, 256)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(weight.linear(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_several_callers_at_once():
    weight = make(300, 256, torch.float32)
    inputs = [torch.randn(1 + i % 4, 256) for i in range(32)]
    alone = [weight.linear(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(weight.linear, inputs))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_the_blocks_are_neither_moved_nor_changed():
    weight = make(33, 64, torch.float32)
    blocks = weight.storage()["blocks"]
    before, place = blocks.clone(), blocks.data_ptr()
    weight.linear(torch.randn(1, 64))
    weight.linear(torch.randn(40, 64))
    assert weight.storage()["blocks"].data_ptr() == place
    assert torch.equal(weight.storage()["blocks"], before)


@pytest.mark.parametrize("count", [1, 40])
def test_a_gradient_reaches_x(count):
    weight = make(33, 64, torch.float32)
    x = torch.randn(count, 64, requires_grad=True)
    seed = torch.randn(count, 33)
    weight.linear(x).backward(seed)
    expected = seed @ weight.dequantize(torch.float32)
    torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-5)


def test_it_is_an_operator_that_torch_can_trace():
    from quantload_kernels_cpu.operators import linear

    weight = make(33, 64, torch.float32)
    x = torch.randn(3, 64, requires_grad=True)
    blocks = weight.storage()["blocks"]
    torch.library.opcheck(linear, (x, [blocks], "Q8_0", [blocks.shape[1]], 33))
    traced = torch.compile(lambda x: weight.linear(x) + 1, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(traced(x), weight.linear(x) + 1)
