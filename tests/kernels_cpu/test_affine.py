"""Group-wise integers in their canonical storage, against the reference."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from quantload.kernels import prepare
from quantload.weights.affine import AffineWeight

LIMITS = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}
FORMS = [
    # bits, group, scales, shifted by, compute dtype, columns
    (2, 64, torch.float16, "zeros", torch.bfloat16, 512),
    (2, 16, torch.float32, "", torch.float32, 304),
    (3, 128, torch.float16, "zeros", torch.float32, 640),
    (3, 32, torch.bfloat16, "offsets", torch.float16, 288),
    (4, 128, torch.float16, "", torch.bfloat16, 512),
    (4, 128, torch.bfloat16, "zeros", torch.float32, 424),
    (4, 32, torch.float16, "offsets", torch.bfloat16, 328),
    (4, 96, torch.float32, "zeros", torch.float32, 480),
    (4, 0, torch.float16, "zeros", torch.float16, 200),
    (4, 8, torch.float16, "", torch.float32, 72),
    (5, 64, torch.float16, "zeros", torch.float32, 328),
    (6, 128, torch.bfloat16, "offsets", torch.float32, 256),
    (7, 32, torch.float16, "", torch.float16, 416),
    (8, 128, torch.float16, "zeros", torch.float32, 384),
    (8, 32, torch.float32, "", torch.bfloat16, 200),
]


def make(bits, group, scales_dtype, shifted, dtype, columns, rows=37, act_order=False):
    random = torch.Generator().manual_seed(bits)
    group = group or columns
    groups = (rows, -(-columns // group))
    codes = torch.randint(0, 1 << bits, (rows, columns), generator=random, dtype=torch.uint8)
    scales = (torch.rand(groups, generator=random) * 0.01 + 0.001).to(scales_dtype)
    zeros = offsets = g_idx = None
    if shifted == "zeros":
        zeros = torch.randint(0, (1 << bits) + 1, groups, generator=random)
    elif shifted == "offsets":
        middle = (1 << (bits - 1)) + torch.randn(groups, generator=random)
        offsets = (-scales.float() * middle).to(scales_dtype)
    if act_order:
        g_idx = (torch.arange(columns) // group)[torch.randperm(columns, generator=random)].int()
    return AffineWeight.from_codes(
        codes,
        scales,
        zeros,
        bits=bits,
        group_size=group,
        dtype=dtype,
        offsets=offsets,
        g_idx=g_idx,
    )


def assert_near(weight, x):
    found = weight.linear(x)
    expected = x.double() @ weight.dequantize(torch.float32).double().T
    assert found.dtype == x.dtype
    assert (found.double() - expected).abs().max() < LIMITS[x.dtype] * expected.abs().max()


def ours(*form, **more):
    weight = make(*form, **more)
    assert prepare(weight).chosen == "cpu-affine", str(weight.selection)
    return weight


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f"{f[0]}-{f[1]}-{f[3]}-{str(f[4])[6:]}")
def test_products_are_those_of_the_reference_and_the_storage_stays(form):
    weight = ours(*form)
    before = {name: tensor.clone() for name, tensor in weight.storage().items()}
    places = {name: tensor.data_ptr() for name, tensor in weight.storage().items()}
    for count in (1, 4, 40):
        assert_near(weight, torch.randn(count, form[5]).to(form[4]))
    after = weight.storage()
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == places
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_any_number_of_rows_of_any_stride():
    weight = ours(*FORMS[4])
    for count in (2, 3, 5, 7):
        assert_near(weight, torch.randn(count, 512).bfloat16())
    assert_near(weight, torch.randn(512, 3).bfloat16().T)
    assert_near(weight, torch.randn(2, 3, 600).bfloat16()[..., 40:552])
    assert weight.linear(torch.randn(0, 512).bfloat16()).shape == (0, 37)


@pytest.mark.parametrize("form", [FORMS[0], FORMS[5], FORMS[6]], ids=["2", "4", "offsets"])
def test_columns_out_of_order_come_back_exactly(form):
    form = (*form[:5], 384)
    weight = ours(*form, act_order=True)
    plain = make(*form, act_order=True)
    assert "codes" not in weight.storage()
    for count in (1, 3, 40):
        assert_near(weight, torch.randn(count, 384).to(form[4]))
    ids = torch.tensor([3, 0, 36])
    assert torch.equal(weight.rows(ids), plain.rows(ids))
    prepare(weight, "reference")
    kept = plain.storage()
    assert weight.storage().keys() == kept.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weight.storage().items())


def test_groups_of_unlike_sizes_get_their_scales_spread():
    weight = make(4, 128, torch.float16, "zeros", torch.float32, 384)
    sizes = torch.tensor([64, 192, 128])
    g_idx = torch.repeat_interleave(torch.arange(3), sizes)[torch.randperm(384)].int()
    uneven = AffineWeight.from_codes(
        weight.plain_codes(),
        weight.scales,
        weight.zeros,
        bits=4,
        group_size=128,
        dtype=torch.float32,
        g_idx=g_idx,
    )
    before = {name: tensor.clone() for name, tensor in uneven.storage().items()}
    assert prepare(uneven).chosen == "cpu-affine"
    assert_near(uneven, torch.randn(3, 384))
    prepare(uneven, "reference")
    assert all(torch.equal(tensor, before[name]) for name, tensor in uneven.storage().items())


def test_copies_and_pickles_are_the_same_weight():
    weight, x = ours(*FORMS[5], act_order=False), torch.randn(2, 424)
    expected = weight.linear(x)
    for twin in (copy.deepcopy(weight), pickle.loads(pickle.dumps(weight))):
        assert torch.equal(twin.linear(x), expected)
        assert torch.equal(twin.dequantize(), weight.dequantize())


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("count", [1, 40])
def test_a_gradient_reaches_x(count, act_order):
    weight = ours(*FORMS[3][:4], torch.float32, 384, act_order=act_order)
    x = torch.randn(count, 384, requires_grad=True)
    seed = torch.randn(count, 37)
    weight.linear(x).backward(seed)
    expected = seed @ weight.dequantize(torch.float32)
    torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("act_order", [False, True])
def test_torch_can_trace_it(backend, act_order):
    weight, x = ours(*FORMS[4][:5], 384, act_order=act_order), torch.randn(2, 384).bfloat16()
    traced = torch.compile(lambda x: weight.linear(x) + 1, fullgraph=True, backend=backend)
    assert torch.equal(traced(x), weight.linear(x) + 1)


@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_in_its_own_row(strange):
    weight, x = ours(*FORMS[4]), torch.randn(3, 512).bfloat16()
    x[1, 300] = strange
    assert weight.linear(x).isfinite().all(1).tolist() == [True, False, True]


def test_groups_that_cut_a_lane_are_refused():
    weight = make(4, 12, torch.float16, "", torch.float32, 72)
    refused = dict(prepare(weight).report)["cpu-affine"]
    assert not refused
    assert "groups of 12" in refused.reason
