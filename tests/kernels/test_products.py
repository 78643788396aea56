"""Every kernel against float32. Without a CUDA device triton interprets them, in float16: its
interpreter multiplies bfloat16 wrongly.
"""

from __future__ import annotations

import pytest
import torch
from makers import BITS, activations, make_weight, relative_error

from quantload_kernels_triton.plans import Plan, fitted

pytest.importorskip("triton")

FEW = Plan("few", tiles=2, units=2, warps=4, ahead=2)
PACKED = Plan("few", tiles=1, units=1, warps=4, packed=True)
MANY = Plan("many", tiles=1, units=2, warps=4, rows=16, ahead=2)
PARTS = Plan("many", tiles=2, units=1, warps=4, rows=32, parts=2)
DECODED = Plan("decoded", tiles=2, units=1, warps=4)


def product(kernel, weight, rows, plan, dtype=torch.float16):
    """Relative error of one product."""
    from quantload_kernels_triton import launch
    from quantload_kernels_triton.arrange import geometry_of, run_of

    matrix = weight.dequantize(torch.float32)
    x = activations(rows, weight, dtype)
    weight.repack(kernel)
    run = run_of(weight.groups, weight.run, weight.act_order)
    arranged = launch.Arranged(
        weight.words,
        weight.scales,
        weight.zeros,
        weight.segments,
        weight.bits,
        weight.group_size,
        run,
        *weight.shape,
    )
    y = launch.linear(x, arranged, weight.order, fitted(plan, geometry_of(weight), run))
    assert y.dtype == dtype
    assert y.shape == (rows, weight.shape[0])
    return relative_error(y, x.double() @ matrix.double().T)


@pytest.mark.parametrize("plan", [FEW, PACKED, MANY, PARTS, DECODED], ids=lambda plan: plan.kernel)
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize("bits", BITS)
def test_every_width_and_group_size(kernel, bits, group_size, plan):
    weight = make_weight(bits, 32, 256, group_size)
    assert product(kernel, weight, 5, plan) < 1e-3


@pytest.mark.parametrize("plan", [FEW, PACKED, MANY, PARTS, DECODED], ids=lambda plan: plan.kernel)
@pytest.mark.parametrize(
    ("rows", "columns", "group_size"),
    [(40, 480, 96), (24, 288, 128), (8, 352, 352), (17, 32, 32)],
)
@pytest.mark.parametrize("bits", [3, 4])
def test_ragged_edges(kernel, bits, rows, columns, group_size, plan):
    weight = make_weight(bits, rows, columns, group_size)
    assert product(kernel, weight, 3, plan) < 1e-3


@pytest.mark.parametrize("plan", [FEW, PACKED, MANY, PARTS, DECODED], ids=lambda plan: plan.kernel)
@pytest.mark.parametrize("act_order", ["even", "uneven"])
@pytest.mark.parametrize("bits", BITS)
def test_columns_in_the_order_of_another_group(kernel, bits, act_order, plan):
    weight = make_weight(bits, 16, 256, 64, act_order=act_order)
    assert product(kernel, weight, 3, plan) < 1e-3


@pytest.mark.parametrize("plan", [FEW, MANY], ids=lambda plan: plan.kernel)
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 40])
def test_every_count_of_rows(kernel, rows, plan):
    weight = make_weight(4, 32, 256, 64)
    assert product(kernel, weight, rows, plan if rows <= 32 else MANY) < 1e-3


@pytest.mark.parametrize("plan", [FEW, MANY, DECODED], ids=lambda plan: plan.kernel)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scales_and_zero_points_of_every_kind(kernel, scale_dtype, symmetric, plan):
    weight = make_weight(4, 32, 256, 64, scale_dtype=scale_dtype, symmetric=symmetric)
    assert product(kernel, weight, 3, plan) < 1e-3


@pytest.mark.parametrize("plan", [FEW, PACKED, MANY, PARTS, DECODED], ids=lambda plan: plan.kernel)
@pytest.mark.parametrize(
    ("group_size", "options"),
    [
        (32, {}),
        (64, {"act_order": "even"}),
        (256, {}),
        (128, {"scale_dtype": torch.float32}),
    ],
)
@pytest.mark.parametrize("bits", BITS)
def test_offsets_in_the_place_of_zero_points(kernel, bits, group_size, options, plan):
    weight = make_weight(bits, 40, 256, group_size, offsets=torch.float32, **options)
    assert product(kernel, weight, 5, plan) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_offsets_of_every_dtype_come_back_and_are_not_rounded(kernel, dtype):
    weight = make_weight(4, 32, 256, 64, offsets=dtype)
    before = {name: tensor.clone() for name, tensor in weight.storage().items()}
    assert product(kernel, weight, 3, FEW, torch.float32) < 1e-6
    assert "offsets" not in weight.storage()
    after = weight.canonical().storage()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("plan", [FEW, PACKED, MANY, PARTS, DECODED], ids=lambda plan: plan.kernel)
def test_either_order_of_the_dimensions_of_a_load(kernel, plan, monkeypatch):
    from quantload_kernels_triton import launch

    for first in (True, False):
        monkeypatch.setattr(launch, "FIRST", first)
        weight = make_weight(3, 64, 512, 128, act_order="even")
        assert product(kernel, weight, 3, plan) < 1e-3


@pytest.mark.parametrize("bits", BITS)
def test_float32_activations_are_not_rounded(kernel, bits):
    weight = make_weight(bits, 32, 256, 64)
    assert product(kernel, weight, 3, FEW, torch.float32) < 1e-6


def test_a_tensor_that_is_not_contiguous(kernel):
    weight = make_weight(4, 32, 256, 64)
    matrix = weight.dequantize(torch.float32)
    weight.repack(kernel)
    wide = activations(6, make_weight(4, 32, 512, 64))
    for x in (wide[:, ::2], wide[:, 100:356], wide[::2, :256], wide.view(2, 3, 512)[..., :256]):
        assert relative_error(weight.linear(x), x.float() @ matrix.T) < 1e-3


def test_no_rows_at_all(kernel):
    weight = make_weight(4, 32, 256, 64)
    weight.repack(kernel)
    assert weight.linear(torch.zeros(0, 256, dtype=torch.float16)).shape == (0, 32)
