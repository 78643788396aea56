from __future__ import annotations

import pytest
import torch
from makers import BITS, activations, make_weight, relative_error

pytestmark = pytest.mark.gpu
BOUND = {torch.float16: 1e-3, torch.bfloat16: 6e-3}


def on_cuda(kernel, *arguments, **options):
    weight = make_weight(*arguments, **options)
    matrix = weight.dequantize(torch.float32).cuda()
    weight = weight.cuda()
    weight.repack(kernel)
    return weight, matrix


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bits", BITS)
def test_every_count_of_rows_agrees_with_float32(kernel, bits, dtype, scale_dtype):
    weight, matrix = on_cuda(kernel, bits, 1024, 2048, 128, dtype=dtype, scale_dtype=scale_dtype)
    for rows in (1, 3, 8, 13, 16, 29, 64, 100, 257, 1024, 3000):
        x = activations(rows, weight)
        assert relative_error(weight.linear(x), x.float() @ matrix.T) < BOUND[dtype], rows


@pytest.mark.parametrize(
    ("columns", "group_size", "options"),
    [
        (1024, 32, {}),
        (1024, 64, {}),
        (1056, 128, {}),
        (992, 992, {}),
        (1024, 128, {"act_order": "even"}),
        (1024, 128, {"act_order": "uneven"}),
        (1024, 128, {"symmetric": True}),
        (1024, 64, {"offsets": torch.float32}),
        (992, 992, {"offsets": torch.float32}),
    ],
)
@pytest.mark.parametrize("bits", BITS)
def test_groups_of_every_kind(kernel, bits, columns, group_size, options):
    weight, matrix = on_cuda(kernel, bits, 600, columns, group_size, **options)
    for rows in (1, 11, 70):
        x = activations(rows, weight)
        assert relative_error(weight.linear(x), x.float() @ matrix.T) < 1e-3, rows


@pytest.mark.parametrize("bits", BITS)
def test_what_was_arranged_is_given_back_exactly(kernel, bits):
    weight = make_weight(bits, 600, 1024, 128, act_order="even").cuda()
    before = {name: tensor.clone() for name, tensor in weight.storage().items()}
    weight.repack(kernel)
    weight.linear(activations(5, weight))
    weight.repack(None)
    assert set(weight.storage()) == set(before)
    assert all(torch.equal(weight.storage()[name], before[name]) for name in before)


def test_results_do_not_change_from_run_to_run(kernel):
    weight, _ = on_cuda(kernel, 4, 512, 4096, 128)
    for rows in (1, 16, 64):
        x = activations(rows, weight)
        first = weight.linear(x)
        assert all(torch.equal(weight.linear(x), first) for _ in range(20))


def test_a_compiled_module_and_a_captured_graph_give_the_same(kernel):
    weight, matrix = on_cuda(kernel, 4, 512, 1024, 128)
    compiled = torch.compile(weight.linear, fullgraph=True)
    for rows in (1, 48):
        x = activations(rows, weight)
        eager = weight.linear(x)
        assert torch.equal(compiled(x), eager)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = weight.linear(x)
        x.copy_(activations(rows, weight, seed=7))
        graph.replay()
        assert relative_error(captured, x.float() @ matrix.T) < 1e-3


def test_the_gradient_reaches_the_input(kernel):
    weight, matrix = on_cuda(kernel, 4, 512, 1024, 128, act_order="even")
    x = activations(5, weight).requires_grad_()
    grad = torch.randn(5, 512, device="cuda", dtype=x.dtype)
    weight.linear(x).backward(grad)
    assert relative_error(x.grad, grad.float() @ matrix) < 1e-3


def test_float32_and_float64_inputs_are_not_rounded(kernel):
    weight, matrix = on_cuda(kernel, 4, 512, 1024, 128)
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        x = activations(5, weight, dtype)
        assert relative_error(weight.linear(x), x.double() @ matrix.double().T) < bound
