from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from toy import ToyWeight, TransposingKernel, toy_weight

from quantload.errors import UnsupportedOperationError


def test_it_looks_like_a_weight():
    weight = toy_weight(6, 8)
    assert weight.shape == (6, 8)
    assert weight.size(0) == 6
    assert (weight.ndim, weight.numel(), weight.requires_grad) == (2, 48, False)
    assert weight.dtype == torch.float32
    assert weight.nbytes == 48 + 6 * 4


def test_its_bytes_are_not_to_be_had_as_numbers():
    with pytest.raises(UnsupportedOperationError, match="dequantize"):
        _ = toy_weight().data
    with pytest.raises(UnsupportedOperationError):
        toy_weight().requires_grad = True


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_linear_computes_and_returns_in_the_dtype_of_the_input(dtype):
    weight = toy_weight()
    x = torch.randn(3, 2, 8).to(dtype)
    y = weight.linear(x)
    assert y.dtype == dtype
    assert torch.equal(y, nn.functional.linear(x, weight.dequantize(dtype)))


@pytest.mark.parametrize(
    "cast",
    [
        lambda w: w.half(),
        lambda w: w.to(torch.float16),
        lambda w: w.to("cpu", torch.float16),
        lambda w: nn.Sequential(w).half()[0],
    ],
)
def test_a_cast_changes_the_compute_dtype_and_no_byte(cast):
    weight = toy_weight()
    before = {k: v.clone() for k, v in weight.storage().items()}
    cast(weight)
    assert weight.dtype == torch.float16
    assert {k: v.dtype for k, v in weight.storage().items()} == {
        "codes": torch.int8,
        "scales": torch.float32,
    }
    assert all(torch.equal(before[k], v) for k, v in weight.storage().items())
    assert torch.equal(weight.float().dequantize(), toy_weight().dequantize())


def test_a_conversion_of_integers_is_refused():
    with pytest.raises(UnsupportedOperationError, match="compute dtype"):
        toy_weight().type(torch.float16)


def test_moving_to_meta_and_giving_it_memory_again():
    weight = toy_weight().to("meta")
    assert weight.is_meta
    assert weight.nbytes == toy_weight().nbytes
    with pytest.raises(UnsupportedOperationError, match="meta"):
        weight.dequantize()
    assert weight.to_empty(device="cpu").device.type == "cpu"


def test_a_gradient_reaches_the_input_and_no_float_weight_is_kept():
    weight = toy_weight()
    x = torch.randn(3, 8, requires_grad=True)
    weight.linear(x).pow(2).sum().backward()
    reference = torch.randn(0)
    y = x.detach().clone().requires_grad_()
    nn.functional.linear(y, weight.dequantize()).pow(2).sum().backward()
    reference = y.grad
    assert torch.allclose(x.grad, reference)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        weight.linear(x)
    assert torch.Size((6, 8)) not in kept


def test_forward_gives_rows_for_integers():
    weight = toy_weight()
    ids = torch.tensor([[0, 5], [2, 2]])
    assert torch.equal(weight(ids), weight.dequantize()[ids])


@pytest.mark.parametrize("arranged", [False, True])
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_are_equal_and_independent(how, arranged, toy_pack):
    weight = toy_weight()
    if arranged:
        weight.repack(TransposingKernel())
    if how == "deepcopy":
        twin = copy.deepcopy(weight)
    else:
        buffer = io.BytesIO()
        torch.save(weight, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    assert torch.equal(twin.dequantize(), weight.dequantize())
    assert (twin.kernel is not None) == arranged
    twin.canonical().codes.zero_()
    assert twin.shape == weight.shape
    assert weight.dequantize().abs().sum() > 0


def test_repacking_replaces_the_storage_and_canonical_gives_it_back_exactly():
    weight = toy_weight()
    before = {k: v.clone() for k, v in weight.storage().items()}
    size = weight.nbytes
    weight.repack(TransposingKernel())
    assert set(weight.storage()) == {"codes_t", "scales"}
    assert weight.nbytes == size
    canonical = weight.canonical()
    assert all(torch.equal(before[k], v) for k, v in canonical.storage().items())
    assert set(weight.storage()) == {"codes_t", "scales"}, "the weight itself stays arranged"
    weight.repack(None)
    assert set(weight.storage()) == {"codes", "scales"}
    assert all(torch.equal(before[k], v) for k, v in weight.storage().items())


def test_an_arranged_weight_decodes_and_gives_rows_like_before():
    weight = toy_weight()
    matrix = weight.dequantize()
    weight.repack(TransposingKernel())
    assert torch.equal(weight.dequantize(), matrix)
    assert torch.equal(weight.rows(torch.tensor([1, 3])), matrix[[1, 3]])


def test_a_weight_that_leaves_its_device_leaves_the_kernel_too(toy_pack):
    from quantload.kernels import prepare

    weight = toy_weight()
    prepare(weight)
    weight.to("meta")
    assert weight.kernel is None
    assert set(dict(weight.named_parameters())) == {"codes", "scales"}


def test_sharding_is_refused_where_the_layout_does_not_say_how():
    with pytest.raises(UnsupportedOperationError, match="cannot be split"):
        toy_weight().shard(0, 0, 2)


def test_it_compiles_without_a_graph_break():
    weight = toy_weight()
    compiled = torch.compile(lambda x: weight(x), fullgraph=True, backend="eager")
    x = torch.randn(2, 8)
    assert torch.equal(compiled(x), weight(x))


def test_transformers_is_told_not_to_initialise_it():
    weight = ToyWeight(torch.zeros(2, 2, dtype=torch.int8), torch.ones(2))
    assert weight._is_hf_initialized
    assert all(p._is_hf_initialized for p in weight.parameters())
