"""ggml blocks and AQLM on a CUDA device: large products, captured and compiled, and the whole
conformance suite of kernels.
"""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from block_makers import aqlm_weight, ggml_weight, product_error, sample

from quantload.testing import KernelSuite

pytest.importorskip("quantload_gguf")
pytest.importorskip("quantload_aqlm")

pytestmark = pytest.mark.gpu
BOUND = {torch.float16: 1e-3, torch.bfloat16: 6e-3}
KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
LAYOUTS = {"1x16": (1, 16), "2x8": (2, 8), "4x8": (4, 8), "1x12": (1, 12), "3x8": (3, 8)}
ROWS = (1, 7, 13, 29, 100, 257)


def on_cuda(name, rows, columns, dtype=torch.float16):
    """A weight with its Triton kernel, and its matrix."""
    from quantload.kernels import prepare

    make = aqlm_weight if name in LAYOUTS else ggml_weight
    what = LAYOUTS.get(name, (name,))
    weight = make(*what, rows, columns, dtype=dtype).cuda()
    matrix = weight.dequantize(torch.float32)
    prepare(weight, "aqlm-triton" if name in LAYOUTS else "ggml-triton")
    return weight, matrix


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*KINDS, *LAYOUTS])
def test_every_count_of_rows_agrees_with_float32(name, dtype):
    weight, matrix = on_cuda(name, 600, 768, dtype)
    for rows in ROWS:
        x = sample(rows, weight)
        assert product_error(weight.linear(x), x, matrix) < BOUND[dtype], rows


@pytest.mark.parametrize("name", ["Q4_0", "Q5_K", "Q6_K", "1x16", "2x8"])
def test_results_do_not_change_from_run_to_run(name):
    weight, _ = on_cuda(name, 512, 4096)
    for rows in (1, 16, 64):
        x = sample(rows, weight)
        first = weight.linear(x)
        assert all(torch.equal(weight.linear(x), first) for _ in range(20))


@pytest.mark.parametrize("name", ["Q4_K", "2x8"])
def test_a_compiled_module_and_a_captured_graph_give_the_same(name):
    weight, matrix = on_cuda(name, 512, 1024)
    compiled = torch.compile(weight.linear, fullgraph=True)
    for rows in (1, 48):
        x = sample(rows, weight)
        eager = weight.linear(x)
        assert torch.equal(compiled(x), eager)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = weight.linear(x)
        x.copy_(sample(rows, weight, seed=7))
        graph.replay()
        assert product_error(captured, x, matrix) < 1e-3


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "1x16", "2x8"])
def test_wide_inputs_are_not_rounded(name):
    weight, matrix = on_cuda(name, 512, 1024)
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-6)):
        x = sample(5, weight, dtype)
        assert product_error(weight.linear(x), x, matrix) < bound


GRID = {
    "devices": ("cuda",),
    "dtypes": (torch.float16, torch.bfloat16),
    "rows": (1, 5, 9, 17, 33),
    "shard_dims": (0,),
}


class TestGgml(KernelSuite):
    method = "gguf"
    pack = "gguf-triton"
    configs: ClassVar = {kind: {"type": kind} for kind in ("Q4_0", "Q4_K", "Q6_K")}
    shapes = ((24, 512),)
    devices = GRID["devices"]
    dtypes = GRID["dtypes"]
    rows = GRID["rows"]
    shard_dims = GRID["shard_dims"]
    extra_bytes = 0.4  # rows are padded to sixteen

    def packed_weight(self, config, shape, dtype, device):
        return ggml_weight(config["type"], *shape, dtype=dtype).to(device)


class TestAqlm(KernelSuite):
    method = "aqlm"
    pack = "aqlm-triton"
    configs: ClassVar = {name: {"name": name} for name in ("1x16", "2x8")}
    shapes = ((24, 104),)
    devices = GRID["devices"]
    dtypes = GRID["dtypes"]
    rows = GRID["rows"]
    shard_dims = GRID["shard_dims"]

    def packed_weight(self, config, shape, dtype, device):
        return aqlm_weight(*LAYOUTS[config["name"]], *shape, dtype=dtype).to(device)
