"""The layouts of bitsandbytes in the kernels of group-wise integers."""

from __future__ import annotations

import pytest
import torch
from makers import relative_error

from quantload.plugin import ModuleSpec
from quantload_kernels_triton.plans import Plan, fitted

pytest.importorskip("triton")
pytest.importorskip("quantload_bitsandbytes")

FEW = Plan("few", tiles=2, units=2, warps=4, ahead=2)
PACKED = Plan("few", tiles=1, units=1, warps=4, packed=True)
MANY = Plan("many", tiles=1, units=1, warps=4, rows=16, ahead=2)
DECODED = Plan("decoded", tiles=2, units=1, warps=4)
PLANS = [FEW, PACKED, MANY, DECODED]
CONFIGS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "nf4 double": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    "nf4 128": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_blocksize": 128,
    },
    "int8": {"load_in_8bit": True},
}


def made(name, shape, dtype=torch.float16):
    from quantload import AutoHfQuantizer

    torch.manual_seed(0)
    quantizer = AutoHfQuantizer.from_config(CONFIGS[name])
    weight = quantizer.quantize(ModuleSpec("a", shape=shape), torch.randn(shape) * 0.1)
    weight.set_compute_dtype(dtype)
    return weight


def kernel_for(name):
    from quantload_kernels_triton.codebook import TritonCodebook
    from quantload_kernels_triton.rows8 import TritonRows8

    return TritonRows8() if name == "int8" else TritonCodebook()


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.kernel)
@pytest.mark.parametrize("shape", [(32, 256), (24, 192), (17, 128)], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_products_are_those_of_the_decoded_weight(name, shape, plan, monkeypatch):
    from quantload_kernels_triton import launch

    if name == "nf4 128" and shape[1] % 128:
        pytest.skip("blocks cross rows")
    monkeypatch.setattr(launch, "plan_of", lambda _, w, __: fitted(plan, w.geometry, w.run))
    weight = made(name, shape)
    matrix = weight.dequantize(torch.float32)
    weight.repack(kernel_for(name))
    x = torch.randn(5, shape[1]).half()
    y = weight.linear(x)
    assert y.dtype == torch.float16
    assert relative_error(y, x.double() @ matrix.double().T) < 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_canonical_storage_comes_back_exactly(name):
    weight = made(name, (24, 256))
    before = {key: tensor.clone() for key, tensor in weight.storage().items()}
    matrix = weight.dequantize(torch.float32)
    weight.repack(kernel_for(name))
    assert torch.equal(weight.dequantize(torch.float32), matrix)
    weight.repack(None)
    assert {key: tensor.dtype for key, tensor in weight.storage().items()} == {
        key: tensor.dtype for key, tensor in before.items()
    }
    assert all(torch.equal(weight.storage()[key], before[key]) for key in before)


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_activations_are_not_rounded(name):
    weight = made(name, (32, 256))
    matrix = weight.dequantize(torch.float32)
    weight.repack(kernel_for(name))
    x = torch.randn(3, 256).requires_grad_()
    y = weight.linear(x)
    assert relative_error(y.detach(), x.detach().double() @ matrix.double().T) < 1e-6
    pull = torch.randn(3, 32)
    y.backward(pull)
    assert relative_error(x.grad, pull.double() @ matrix.double()) < 1e-6


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_compiling_leaves_one_graph(name):
    weight = made(name, (32, 256))
    matrix = weight.dequantize(torch.float32)
    weight.repack(kernel_for(name))
    compiled = torch.compile(weight.linear, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 256).half()
    assert relative_error(compiled(x), x.float() @ matrix.T) < 1e-3


def test_the_tables_are_those_of_the_method():
    from quantload_bitsandbytes.codebooks import codebook
    from quantload_kernels_triton.jit.tables import TABLES

    for name, values in TABLES.items():
        assert torch.equal(torch.tensor(values), codebook(name))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_the_bytes_of_the_tables_are_those_of_the_rounded_entries(name, bf16):
    from quantload_kernels_triton.jit.tables import TABLES, bits_of

    dtype = torch.bfloat16 if bf16 else torch.float16
    wanted = torch.tensor(TABLES[name]).to(dtype).view(torch.int16).tolist()
    assert [bits_of(value, bf16) for value in TABLES[name]] == [bits & 0xFFFF for bits in wanted]


@pytest.mark.parametrize(
    ("params", "columns", "said"),
    [
        ({"standard": False}, 256, "quant_map"),
        ({}, 96, "cross rows"),
        ({"block_size": 16}, 256, "32 or more"),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason(params, columns, said):
    from quantload.kernels import KernelSpec

    base = {"quant_type": "nf4", "block_size": 64, "nested_block_size": None, "standard": True}
    spec = KernelSpec(
        "bitsandbytes_4bit",
        torch.device("cuda"),
        (9, 0),
        torch.float16,
        (64, columns),
        {**base, **params},
    )
    verdict = kernel_for("nf4").supports(spec)
    assert not verdict
    assert said in verdict.reason
