"""ggml blocks by the Triton kernels, which triton interprets where there is no CUDA device: in
float16, for its interpreter multiplies bfloat16 wrongly.
"""

from __future__ import annotations

import copy

import pytest
import torch
from block_makers import blocks_of, ggml_weight, product_error, sample

pytest.importorskip("triton")
pytest.importorskip("quantload_gguf")

from quantload.kernels import KernelSpec
from quantload_gguf.kernels.triton import FORMS, TritonKernel
from quantload_kernels_triton.blocks.plans import LEAST_SHARED, Plan, fitted, plan_for, shared_bytes

KINDS = list(FORMS)
PLANS = {
    "few": Plan("few", span=64),
    "few-wide": Plan("few", tiles=2, span=128),
    "few-packed": Plan("few", packed=True),
    "many": Plan("many", rows=16, ahead=1),
    "many-parts": Plan("many", tiles=2, rows=16, parts=2),
    "decoded": Plan("decoded"),
}


def columns_of(kind):
    """A whole number of blocks that fills no unit, and one that fills them all."""
    return (768, 512) if kind.endswith("K") else (96, 512)


@pytest.fixture
def repacked():
    def make(kind, rows=40, columns=512, **options):
        weight = ggml_weight(kind, rows, columns, **options)
        matrix = weight.dequantize(torch.float32)
        weight.repack(TritonKernel())
        return weight, matrix

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_the_blocks_come_back_byte_for_byte(kind):
    for rows, columns in zip((40, 7), columns_of(kind), strict=True):
        weight = ggml_weight(kind, rows, columns)
        before = weight.storage()["blocks"].clone()
        weight.repack(TritonKernel())
        assert torch.equal(weight.canonical().storage()["blocks"], before)
        weight.repack(None)
        assert torch.equal(weight.storage()["blocks"], before)


@pytest.mark.parametrize("kind", KINDS)
def test_an_arrangement_is_hardly_larger(kind):
    weight = ggml_weight(kind, 64, 1024)
    canonical = weight.nbytes
    weight.repack(TritonKernel())
    assert weight.nbytes <= canonical * 1.03


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_read_without_restoring_the_rest(kind, repacked):
    weight, matrix = repacked(kind)
    ids = torch.tensor([[0, 17], [39, 16]])
    assert torch.equal(weight.rows(ids), matrix[ids].half())


CASES = [(kind, "few") for kind in KINDS]
CASES += [(kind, plan) for kind in ("Q4_1", "Q5_K", "Q6_K") for plan in PLANS if plan != "few"]


@pytest.mark.parametrize(("kind", "plan"), CASES)
def test_products_with_ragged_edges(kind, plan, repacked):
    from quantload_kernels_triton.blocks import launch

    weight, matrix = repacked(kind, columns=columns_of(kind)[0])
    x = sample(5, weight)
    y = launch.linear(x, blocks_of(weight), PLANS[plan])
    assert product_error(y, x, matrix) < 1e-3


@pytest.mark.parametrize("rows", [1, 8, 9, 17, 33])
def test_the_plans_of_the_package(rows, repacked):
    weight, matrix = repacked("Q4_K", rows=32)
    x = sample(rows, weight)
    assert product_error(weight.linear(x), x, matrix) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_float32_activations_are_not_rounded(kind, repacked):
    weight, matrix = repacked(kind)
    x = sample(3, weight, torch.float32)
    assert product_error(weight.linear(x), x, matrix) < 1e-6


def test_either_order_of_the_dimensions_of_a_load(repacked, monkeypatch):
    from quantload_kernels_triton.blocks import launch

    for first in (True, False):
        monkeypatch.setattr(launch, "FIRST", first)
        for kind, plan in (("Q5_K", "few"), ("Q6_K", "many")):
            weight, matrix = repacked(kind, rows=16, columns=256)
            x = sample(3, weight)
            y = launch.linear(x, blocks_of(weight), PLANS[plan])
            assert product_error(y, x, matrix) < 1e-3


def test_the_operators_keep_the_rules_of_torch_library(repacked):
    weight, _ = repacked("Q5_K", rows=16, columns=256)
    form = FORMS["Q5_K"]
    tensors = tuple(
        weight._parameters[name].detach() for name in ("low", "high", "scales", "steps", "minima")
    )
    sizes = (form.bits, form.zero, form.offsets, form.steps, 16)
    x = sample(3, weight).requires_grad_()
    # Products of halves in the interpreter and in torch differ in the last bit or two.
    close = {"rtol": 1e-2, "atol": 1e-2}
    torch.library.opcheck(torch.ops.quantload_triton.blocks_linear, (x, *tensors, *sizes), **close)
    torch.library.opcheck(
        torch.ops.quantload_triton.blocks_dequantize,
        (*tensors, *sizes, 32, torch.float16),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_compiling_leaves_one_graph_and_the_gradient_reaches_the_input(repacked):
    weight, matrix = repacked("Q4_K", rows=16, columns=256)
    compiled = torch.compile(weight.linear, fullgraph=True, backend="aot_eager")
    for linear in (weight.linear, compiled):
        x = sample(4, weight).view(2, 2, -1).requires_grad_()
        y = linear(x)
        assert product_error(y.detach(), x.detach(), matrix) < 1e-3
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).half()
        y.backward(grad)
        assert product_error(x.grad, grad, matrix.T) < 1e-3


def test_a_product_changes_nothing_and_copies_keep_the_numbers(repacked):
    weight, matrix = repacked("Q6_K", rows=16, columns=256)
    before = {name: tensor.clone() for name, tensor in weight.storage().items()}
    x = sample(3, weight)
    same = x.clone()
    weight.linear(x)
    assert torch.equal(x, same)
    weight.to(torch.bfloat16)
    assert all(torch.equal(weight.storage()[name], before[name]) for name in before)
    assert torch.equal(copy.deepcopy(weight).dequantize(torch.float32), matrix)


def test_no_rows_and_rows_that_are_not_contiguous(repacked):
    weight, matrix = repacked("Q4_0", rows=16, columns=64)
    assert weight.linear(torch.zeros(0, 64, dtype=torch.float16)).shape == (0, 16)
    wide = torch.randn(6, 128, generator=torch.Generator().manual_seed(5)).half()
    for x in (wide[:, ::2], wide[:, 50:114], wide[::2, :64]):
        assert product_error(weight.linear(x), x, matrix) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_plans_fit_the_shared_memory_there_is(kind):
    form = FORMS[kind]
    for rows in (17, 64):
        for out in (256, 4096, 28672):
            plan = plan_for(form, out, 4096, rows)
            assert plan.kernel == "many"
            assert shared_bytes(plan, form) <= LEAST_SHARED
    large = fitted(Plan("many", rows=256, ahead=4, stages=4), form, 4096, 4096)
    assert shared_bytes(large, form) <= LEAST_SHARED


def spec(**changes):
    usual = {
        "layout": "ggml",
        "device": torch.device("cuda"),
        "capability": (8, 0),
        "dtype": torch.float16,
        "shape": (64, 256),
        "params": {"ggml_type": "Q4_K"},
    }
    return KernelSpec(**{**usual, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": "affine"}, "ggml"),
        ({"params": {"ggml_type": "IQ2_XS"}}, "IQ2_XS"),
        ({"dtype": torch.float32}, "float32"),
        ({"shape": (4, 64, 256)}, "matrices"),
    ],
)
def test_what_it_cannot_run_has_a_reason(changes, said):
    verdict = TritonKernel().supports(spec(**changes))
    assert not verdict
    assert said in verdict.reason
    assert TritonKernel().supports(spec())
