from __future__ import annotations

import copy

import pytest
import torch
from makers import activations, make_weight, relative_error

pytest.importorskip("triton")


def repacked(kernel, **options):
    weight = make_weight(4, 32, 256, 64, **options)
    matrix = weight.dequantize(torch.float32)
    weight.repack(kernel)
    return weight, matrix


def test_the_operators_keep_the_rules_of_torch_library(kernel):
    weight, _ = repacked(kernel, act_order="even")
    tensors = (weight.words, weight.scales, weight.zeros, weight.segments, weight.order)
    sizes = (weight.bits, weight.group_size, weight.run, weight.shape[0])
    x = activations(3, weight).requires_grad_()
    # Products of halves in the interpreter and in torch differ in the last bit or two.
    close = {"rtol": 1e-2, "atol": 1e-2}
    torch.library.opcheck(torch.ops.quantload_triton.affine_linear, (x, *tensors, *sizes), **close)
    torch.library.opcheck(
        torch.ops.quantload_triton.affine_dequantize,
        (*tensors, *sizes, weight.shape[1], torch.float16),
    )


def test_compiling_leaves_one_graph(kernel):
    weight, matrix = repacked(kernel)
    compiled = torch.compile(weight.linear, fullgraph=True, backend="aot_eager")
    for rows in (1, 2, 5):
        x = activations(rows, weight)
        assert relative_error(compiled(x), x.float() @ matrix.T) < 1e-3


@pytest.mark.parametrize("act_order", [None, "even", "uneven"])
def test_the_gradient_reaches_the_input(kernel, act_order):
    weight, matrix = repacked(kernel, act_order=act_order)
    x = activations(6, weight).view(2, 3, 256).requires_grad_()
    y = weight.linear(x)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).half()
    y.backward(grad)
    assert relative_error(x.grad, grad.float() @ matrix) < 1e-3


def test_the_gradient_of_a_compiled_product(kernel):
    weight, matrix = repacked(kernel)
    compiled = torch.compile(weight.linear, fullgraph=True, backend="aot_eager")
    x = activations(4, weight).requires_grad_()
    compiled(x).sum().backward()
    wanted = torch.ones(4, 32) @ matrix
    assert relative_error(x.grad, wanted) < 1e-3


@pytest.mark.parametrize("act_order", [None, "even"])
def test_dequantizing_gives_the_columns_in_their_own_order(kernel, act_order):
    weight, matrix = repacked(kernel, act_order=act_order)
    assert torch.equal(weight.dequantize(torch.float32), matrix)
    direct = torch.ops.quantload_triton.affine_dequantize(
        weight.words,
        weight.scales,
        weight.zeros,
        weight.segments,
        weight.order,
        weight.bits,
        weight.group_size,
        weight.run,
        *weight.shape,
        torch.float32,
    )
    assert torch.equal(direct, matrix)


def test_copies_and_casts_keep_the_numbers(kernel):
    weight, matrix = repacked(kernel, act_order="even")
    before = {name: tensor.clone() for name, tensor in weight.storage().items()}
    weight.to(torch.bfloat16)
    assert weight.dtype == torch.bfloat16
    assert all(torch.equal(weight.storage()[name], before[name]) for name in before)
    assert torch.equal(copy.deepcopy(weight).dequantize(torch.float32), matrix)


def test_a_product_changes_nothing(kernel):
    weight, _ = repacked(kernel)
    before = {name: tensor.clone() for name, tensor in weight.storage().items()}
    x = activations(3, weight)
    same = x.clone()
    weight.linear(x)
    assert torch.equal(x, same)
    assert all(torch.equal(weight.storage()[name], before[name]) for name in before)
