"""The kernels of warpgroups on a Hopper device: every size, every width, every kind of block."""

from __future__ import annotations

import pytest
import torch
from block_makers import blocks_of, ggml_weight
from makers import BITS, activations, make_weight, relative_error
from warpgroup_sizes import SIZES

pytestmark = pytest.mark.gpu
BOUND = {torch.float16: 1e-3, torch.bfloat16: 6e-3}
KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
ABSENT = "needs a Hopper device and the version of triton that is known"


def of_warpgroups(weight):
    """A repacked weight as the launcher takes it."""
    from quantload_kernels_triton import launch
    from quantload_kernels_triton.arrange import run_of

    run = run_of(weight.groups, weight.run, weight.act_order)
    tensors = (weight.words, weight.scales, weight.zeros, weight.segments)
    arranged = launch.Arranged(*tensors, weight.bits, weight.group_size, run, *weight.shape)
    if not launch.suits(arranged, weight.dtype):
        pytest.skip(ABSENT)
    return arranged


def on_cuda(kernel, *arguments, **options):
    weight = make_weight(*arguments, **options)
    matrix = weight.dequantize(torch.float32).cuda()
    weight = weight.cuda()
    weight.repack(kernel)
    return weight, matrix


def agrees(linear, x, matrix, bound):
    """Right, the same from run to run, and captured."""
    y = linear(x)
    assert relative_error(y, x.float() @ matrix.T) < bound
    assert all(torch.equal(linear(x), y) for _ in range(10))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = linear(x)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert relative_error(captured, x.float() @ matrix.T) < bound


def product(arranged, sizes, order=None, parts=1, rest=False):
    """The product with an arranged weight."""
    from quantload_kernels_triton import launch
    from quantload_kernels_triton.plans import Plan

    plan = Plan("warpgroups", parts=parts, rest=rest, **sizes)
    return lambda x: launch.linear(x, arranged, order, plan)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(
    ("rows", "shape", "options"),
    [
        (512, (512, 1024), {}),
        (300, (600, 1088), {}),
        (70, (130, 128), {}),
        (256, (512, 1024), {"symmetric": True}),
        (100, (512, 1024), {"act_order": "even"}),
        (100, (200, 1024), {"act_order": "wide"}),
        (256, (512, 1024), {"dtype": torch.bfloat16}),
        (130, (300, 1024), {"dtype": torch.bfloat16, "scale_dtype": torch.bfloat16}),
    ],
    ids=str,
)
def test_warpgroups_that_share_the_work_give_the_same(
    kernel, rows, shape, options, sizes, monkeypatch
):
    from quantload_kernels_triton import splitting, warpgroups

    monkeypatch.setattr(splitting, "PROCESSORS", 8)
    monkeypatch.setattr(warpgroups, "PROCESSORS", 8)
    weight, matrix = on_cuda(kernel, 4, *shape, 64, **options)
    arranged = of_warpgroups(weight)
    x = activations(rows, weight)
    for parts, rest in ((1, False), (3, False), (2, True)):
        linear = product(arranged, sizes, weight.order, parts, rest)
        agrees(linear, x, matrix, BOUND[weight.dtype])


@pytest.mark.parametrize("sizes", [SIZES[3], SIZES[4]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("columns", "group_size", "options"),
    [
        (1088, 64, {}),
        (1024, 64, {"symmetric": True}),
        (1024, 1024, {"scale_dtype": torch.float32}),
    ],
    ids=str,
)
@pytest.mark.parametrize("bits", BITS)
def test_warpgroups_decode_every_width(kernel, bits, columns, group_size, options, dtype, sizes):
    weight, matrix = on_cuda(kernel, bits, 200, columns, group_size, dtype=dtype, **options)
    linear = product(of_warpgroups(weight), sizes)
    agrees(linear, activations(150, weight), matrix, BOUND[dtype])


@pytest.mark.parametrize("sizes", [SIZES[1], SIZES[4]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("table", ["nf4", "fp4"])
def test_warpgroups_look_codes_up(table, dtype, sizes):
    from quantload_kernels_triton import launch
    from quantload_kernels_triton.geometry import Geometry

    out, into = 200, 1088
    geometry = Geometry(4, out, into)
    shape = geometry.words_shape
    words = torch.randint(-(1 << 15), 1 << 15, shape, dtype=torch.int16, device="cuda")
    scales = torch.rand(into // 64, geometry.tiles, 8, 2, device="cuda") * 0.02 + 0.01
    arranged = launch.Arranged(words, scales, None, None, 4, 64, 64, out, into, table)
    if not launch.suits(arranged, dtype):
        pytest.skip(ABSENT)
    matrix = launch.decode(arranged, torch.float32)
    x = torch.randn(150, into, device="cuda", dtype=dtype)
    agrees(product(arranged, sizes), x, matrix, BOUND[dtype])


@pytest.mark.parametrize("sizes", [SIZES[0], SIZES[1], SIZES[4]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_warpgroups_decode_every_kind_of_block(kind, dtype, sizes):
    pytest.importorskip("quantload_gguf")
    from quantload_gguf.kernels.triton import TritonKernel
    from quantload_kernels_triton import warpgroups
    from quantload_kernels_triton.blocks import launch
    from quantload_kernels_triton.blocks.plans import Plan

    weight = ggml_weight(kind, 200, 1024 if "K" in kind else 1088, dtype=dtype).cuda()
    matrix = weight.dequantize(torch.float32)
    if not warpgroups.able(weight.device, weight.shape[1]):
        pytest.skip(ABSENT)
    weight.repack(TritonKernel())
    arranged = blocks_of(weight)
    x = torch.randn(150, weight.shape[1], device="cuda", dtype=dtype)
    plan = Plan("warpgroups", **sizes)
    agrees(lambda x: launch.linear(x, arranged, plan), x, matrix, BOUND[dtype])
