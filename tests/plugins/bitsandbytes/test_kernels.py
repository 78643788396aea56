"""Every kernel gives what the reference gives, changes nothing, and lets gradients through."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from quantload import AutoHfQuantizer
from quantload.errors import NoKernelError
from quantload.kernels.contract import KernelSpec
from quantload.kernels.selector import prepare
from quantload.plugin import ModuleSpec
from quantload_bitsandbytes import products4
from quantload_bitsandbytes.kernel_classes import LibraryFourBit, LlmInt8

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
CONFIGS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4 double": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True},
    "nf4 in bf16": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_quant_storage": "bfloat16",
    },
    "nf4 blocks of 1024": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_blocksize": 1024,
    },
    "int8": {"load_in_8bit": True},
}
# Odd rows, blocks that cross rows, fewer columns than a block, one row, one column.
SHAPES = [(64, 128), (48, 96), (56, 80), (20, 36), (4, 2), (1, 200), (130, 8)]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def _weight(config: str, shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    quantizer: Any = AutoHfQuantizer.from_config(CONFIGS[config])
    weight = quantizer.quantize(ModuleSpec("a", shape=shape), torch.randn(shape))
    weight.set_compute_dtype(dtype)
    return weight


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("config", CONFIGS)
def test_the_chosen_kernel_gives_the_product(
    config: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    weight = _weight(config, shape, dtype)
    matrix = weight.dequantize(torch.float32).double()
    chosen = prepare(weight).chosen
    assert chosen.startswith("bitsandbytes_")
    by_eight_bit_inputs = chosen == LlmInt8.name
    for batch in ((1,), (3,), (2, 5), (40,)):
        x = torch.randn(*batch, shape[1]).to(dtype)
        before = x.clone()
        y = weight.linear(x)
        assert y.dtype == dtype
        assert y.shape == (*batch, shape[0])
        tolerance = 0.03 if by_eight_bit_inputs else TOLERANCE[dtype]
        assert _error(y, x.double() @ matrix.T) < tolerance
        assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("config", CONFIGS)
def test_the_reference_gives_the_product(config: str, dtype: torch.dtype) -> None:
    weight = _weight(config, (48, 96), dtype)
    matrix = weight.dequantize(torch.float32).double()
    x = torch.randn(7, 96).to(dtype)
    assert prepare(weight, "reference").chosen == "reference"
    assert _error(weight.linear(x), x.double() @ matrix.T) < TOLERANCE[dtype]


@pytest.mark.parametrize("config", CONFIGS)
def test_parts_make_no_difference(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    weight = _weight(config, (100, 96))
    prepare(weight)
    x = torch.randn(3, 96)
    whole = weight.linear(x)
    monkeypatch.setattr(products4, "PART_BYTES", {4: 3000})
    torch.testing.assert_close(weight.linear(x), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "columns", "block_size"), [(100, 96, 64), (7, 5, 4096), (3, 1, 32), (50, 64, 64)]
)
def test_parts_never_cut_a_block(rows: int, columns: int, block_size: int) -> None:
    step = products4.rows_at_a_time(rows, columns, block_size, 4)
    assert 1 <= step <= rows
    assert step == rows or step * columns % block_size == 0


@pytest.mark.parametrize("dtype", FLOATS[:2], ids=str)
@pytest.mark.parametrize("kernel", [None, "reference"])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_gradient_reaches_the_input(
    config: str, kernel: str | None, dtype: torch.dtype
) -> None:
    weight = _weight(config, (48, 96), dtype)
    prepare(weight, kernel)
    x = torch.randn(5, 96).to(dtype).requires_grad_()
    pull = torch.randn(5, 48).to(dtype)
    torch.autograd.backward([weight.linear(x)], [pull])
    assert x.grad is not None
    expected = pull.double() @ weight.dequantize(torch.float32).double()
    assert _error(x.grad, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", FLOATS[:2], ids=str)
@pytest.mark.parametrize("config", CONFIGS)
def test_torch_compile_takes_it_without_a_break(config: str, dtype: torch.dtype) -> None:
    weight = _weight(config, (48, 96), dtype)
    prepare(weight)

    def forward(x: Tensor) -> Tensor:
        product: Tensor = weight.linear(x) * 2
        return product

    compiled = torch.compile(forward, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 96).to(dtype).requires_grad_()
    y = compiled(x)
    assert torch.equal(y, forward(x))
    torch.autograd.backward([y], [torch.ones_like(y)])
    assert x.grad is not None


@pytest.mark.parametrize(
    ("op", "config"),
    [("linear_4bit", "fp4 double"), ("llm_int8", "int8"), ("linear_8bit", "int8")],
)
def test_ops_are_registered_as_torch_wants_them(op: str, config: str) -> None:
    weight = _weight(config, (48, 96))
    x = torch.randn(4, 96, requires_grad=True)
    arguments: tuple[Any, ...] = (x, weight.codes, weight.scales) if config == "int8" else ()
    if op == "llm_int8":
        arguments = (*arguments, 6.0)
    if op == "linear_4bit":
        arguments = (
            x,
            weight.packed,
            weight.absmax,
            weight.quant_map,
            weight.nested_absmax,
            weight.nested_quant_map,
            weight.state.nested_offset,
            256,
            "fp4",
            64,
            [48, 96],
        )
    torch.library.opcheck(getattr(torch.ops.quantload_bitsandbytes, op).default, arguments)


@pytest.mark.parametrize("config", CONFIGS)
def test_autocast_does_not_change_the_dtype_of_the_product(config: str) -> None:
    weight = _weight(config, (48, 96))
    prepare(weight)
    x = torch.randn(3, 96)
    plain = weight.linear(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(weight.linear(x), plain)


@pytest.mark.parametrize("config", CONFIGS)
def test_forwards_moves_casts_and_copies_leave_the_bytes_alone(
    config: str, same_tensors: Callable[..., None]
) -> None:
    quantizer: Any = AutoHfQuantizer.from_config(CONFIGS[config])
    weight = _weight(config, (64, 128))
    before = {k: v.clone() for k, v in quantizer.unpack("a", weight).items()}
    prepare(weight)
    for dtype in FLOATS:
        weight.to(dtype)
        assert weight.dtype == dtype
        for rows in (1, 3, 40):
            weight.eval()(torch.randn(rows, 128).to(dtype))
    same_tensors(quantizer.unpack("a", weight), before)
    weight.half()
    prepare(weight)
    twin = copy.deepcopy(weight)
    same_tensors(quantizer.unpack("a", twin), before)
    file = io.BytesIO()
    torch.save(weight, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    same_tensors(quantizer.unpack("a", loaded), before)
    assert loaded.dtype == torch.float16
    x = torch.randn(2, 128).half()
    assert torch.equal(loaded.linear(x), weight.linear(x))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("shape", [(30, 64), (30, 20), (6, 1024)])
def test_rows_are_those_of_the_matrix(config: str, shape: tuple[int, int]) -> None:
    weight = _weight(config, shape)
    matrix = weight.dequantize(torch.float32)
    ids = torch.tensor([[3, 0], [5, 3]])
    assert torch.equal(weight.rows(ids), matrix[ids])
    assert weight.rows(torch.zeros(0, dtype=torch.long)).shape == (0, shape[1])


@pytest.mark.parametrize("config", CONFIGS)
def test_an_empty_batch_gives_an_empty_product(config: str) -> None:
    for dtype in FLOATS[:2]:
        weight = _weight(config, (48, 96), dtype)
        prepare(weight)
        assert weight.linear(torch.zeros(0, 96, dtype=dtype)).shape == (0, 48)


def test_float32_models_are_not_multiplied_in_eight_bits() -> None:
    weight = _weight("int8", (48, 96))
    assert prepare(weight).chosen == "bitsandbytes_int8_exact"
    with pytest.raises(NoKernelError, match="bitsandbytes_llm_int8: no: computes in bfloat16"):
        prepare(weight, "bitsandbytes_llm_int8")


def test_the_cuda_kernel_says_why_not() -> None:
    cuda = torch.device("cuda")
    kernel = LibraryFourBit()

    def ask(**changes: Any) -> str:
        params = {"standard": True, "block_size": 64, **changes.pop("params", {})}
        facts = {"dtype": torch.bfloat16, "shape": (64, 64), "device": cuda, **changes}
        spec = KernelSpec(
            "bitsandbytes_4bit",
            facts["device"],
            (9, 0),
            facts["dtype"],
            facts["shape"],
            params,
        )
        return kernel.supports(spec).reason

    assert "runs on cuda" in ask(device=torch.device("cpu"))
    assert "not in torch.float64" in ask(dtype=torch.float64)
    assert "quant_map" in ask(params={"standard": False})
    assert "65 columns" in ask(shape=(64, 65))
    if not torch.cuda.is_available():
        assert "no CUDA kernels" in ask()
