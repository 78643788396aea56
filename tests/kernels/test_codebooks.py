"""AQLM by the Triton kernels, which triton interprets where there is no CUDA device: in float16,
for its interpreter multiplies bfloat16 wrongly.
"""

from __future__ import annotations

import copy

import pytest
import torch
from block_makers import aqlm_weight, coded_of, product_error, sample

pytest.importorskip("triton")
pytest.importorskip("quantload_aqlm")

from quantload.kernels import KernelSpec
from quantload_aqlm.triton import TritonKernel
from quantload_kernels_triton.codebooks.plans import Plan

LAYOUTS = {
    "1x16": (1, 16),
    "2x8": (2, 8),
    "1x8": (1, 8),
    "4x8": (4, 8),
    "1x12": (1, 12),
    "3x5": (3, 5),
}
PLANS = {
    "few": Plan("few", groups=2, ahead=True),
    "few-wide": Plan("few", tiles=2, warps=4, groups=4),
    "many": Plan("many", groups=1, rows=16),
    "many-parts": Plan("many", warps=8, groups=2, rows=32, parts=2),
    "decoded": Plan("decoded"),
}


def repacked(*arguments, **options):
    weight = aqlm_weight(*arguments, **options)
    matrix = weight.dequantize(torch.float32)
    weight.repack(TritonKernel())
    return weight, matrix


CASES = [(layout, "few", 256) for layout in LAYOUTS]
CASES += [(layout, plan, 104) for layout in ("1x16", "4x8", "3x5") for plan in PLANS]


@pytest.mark.parametrize(("layout", "plan", "columns"), CASES)
def test_products_of_every_layout(layout, plan, columns):
    from quantload_kernels_triton.codebooks import launch

    weight, matrix = repacked(*LAYOUTS[layout], 40, columns)
    x = sample(5, weight)
    y = launch.linear(x, coded_of(weight), PLANS[plan])
    assert product_error(y, x, matrix) < 1e-3


@pytest.mark.parametrize("rows", [1, 8, 9, 16, 17, 33])
def test_the_plans_of_the_package(rows):
    weight, matrix = repacked(2, 8, 32, 256)
    x = sample(rows, weight)
    assert product_error(weight.linear(x), x, matrix) < 1e-3


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("books", [torch.float32, torch.bfloat16])
def test_codebooks_of_another_dtype_than_the_activations(books, plan):
    from quantload_kernels_triton.codebooks import launch

    weight, matrix = repacked(2, 8, 24, 128, books=books)
    x = sample(3, weight)
    assert product_error(launch.linear(x, coded_of(weight), PLANS[plan]), x, matrix) < 1e-3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_float32_activations_are_not_rounded(layout):
    weight, matrix = repacked(*LAYOUTS[layout], 24, 128)
    x = sample(3, weight, torch.float32)
    assert product_error(weight.linear(x), x, matrix) < 1e-6


def test_either_order_of_the_dimensions_of_a_load(monkeypatch):
    from quantload_kernels_triton.codebooks import launch

    for first in (True, False):
        monkeypatch.setattr(launch, "FIRST", first)
        weight, matrix = repacked(2, 8, 24, 128)
        for plan in ("few", "many"):
            x = sample(3, weight)
            y = launch.linear(x, coded_of(weight), PLANS[plan])
            assert product_error(y, x, matrix) < 1e-3


def test_the_operators_keep_the_rules_of_torch_library():
    weight, _ = repacked(2, 4, 16, 32)
    tensors = tuple(t.detach() for t in (weight.codes, weight.codebooks, weight.scales))
    x = sample(3, weight).requires_grad_()
    # Products of halves in the interpreter and in torch differ in the last bit or two.
    close = {"rtol": 1e-2, "atol": 1e-2}
    torch.library.opcheck(torch.ops.quantload_triton.codebooks_linear, (x, *tensors), **close)
    torch.library.opcheck(
        torch.ops.quantload_triton.codebooks_dequantize,
        (*tensors, torch.float16),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_compiling_leaves_one_graph_and_the_gradient_reaches_the_input():
    weight, matrix = repacked(2, 8, 16, 64)
    compiled = torch.compile(weight.linear, fullgraph=True, backend="aot_eager")
    for linear in (weight.linear, compiled):
        x = sample(4, weight).view(2, 2, -1).requires_grad_()
        y = linear(x)
        assert product_error(y.detach(), x.detach(), matrix) < 1e-3
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).half()
        y.backward(grad)
        assert product_error(x.grad, grad, matrix.T) < 1e-3


def test_a_product_changes_nothing_and_copies_and_parts_keep_the_numbers():
    weight, matrix = repacked(2, 8, 24, 128)
    before = {name: tensor.clone() for name, tensor in weight.storage().items()}
    x = sample(3, weight)
    same = x.clone()
    weight.linear(x)
    assert torch.equal(x, same)
    assert all(torch.equal(weight.storage()[name], before[name]) for name in before)
    assert torch.equal(copy.deepcopy(weight).dequantize(torch.float32), matrix)
    part = weight.shard(0, 1, 2)
    part.repack(TritonKernel())
    assert product_error(part.linear(x), x, matrix[12:]) < 1e-3


def test_no_rows_and_rows_that_are_not_contiguous():
    weight, matrix = repacked(1, 8, 24, 128)
    assert weight.linear(torch.zeros(0, 128, dtype=torch.float16)).shape == (0, 24)
    wide = torch.randn(40, 256, generator=torch.Generator().manual_seed(5)).half()
    for x in (wide[:6, ::2], wide[:5, 100:228], wide[::2, :128]):
        assert product_error(weight.linear(x), x, matrix) < 1e-3


def spec(**changes):
    params = {"codebooks": 1, "entries": 256, "out_group": 1, "in_group": 8}
    usual = {
        "layout": "aqlm",
        "device": torch.device("cuda"),
        "capability": (8, 0),
        "dtype": torch.float16,
        "shape": (64, 256),
        "params": {**params, **changes.pop("params", {})},
    }
    return KernelSpec(**{**usual, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": "affine"}, "aqlm"),
        ({"params": {"out_group": 4}}, "4"),
        ({"params": {"in_group": 16}}, "16"),
        ({"params": {"entries": 1 << 17}}, "131072"),
        ({"dtype": torch.float32}, "float32"),
    ],
)
def test_what_it_cannot_run_has_a_reason(changes, said):
    verdict = TritonKernel().supports(spec(**changes))
    assert not verdict
    assert said in verdict.reason
    assert TritonKernel().supports(spec())
