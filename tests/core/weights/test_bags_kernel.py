"""`torch-bags`: the kernel suite, its tables, its choice, its crossings."""

from __future__ import annotations

from typing import ClassVar
from unittest import mock

import pytest
import torch

from quantload.kernels import prepare
from quantload.testing import KernelSuite
from quantload.testing.declared import Config, Shape, example
from quantload.weights import bags
from quantload.weights.affine import AffineWeight, bags_product
from quantload.weights.affine.bags_kernel import TorchBags
from quantload.weights.packed import PackedWeight


@pytest.fixture(autouse=True)
def _torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """These kernels serve where the pack with faster ones is not installed."""
    monkeypatch.setenv("QUANTLOAD_DISABLE", "quantload-kernels-cpu")


pytestmark = pytest.mark.skipif(
    not bags.available(), reason="torch has no fast embedding bags for this CPU"
)


def made(
    shape: Shape,
    bits: int,
    group_size: int,
    form: str = "plain",
    dtype: torch.dtype = torch.float32,
) -> AffineWeight:
    rows, columns = shape
    size = columns if group_size == -1 else group_size
    generator = torch.Generator().manual_seed(rows + columns + size + bits)
    groups = -(-columns // size)
    index = torch.arange(columns) // size
    if form == "act-order":
        index = index[torch.randperm(columns, generator=generator)]
    zeros = torch.randint(0, 1 << bits, (rows, groups), generator=generator)
    weight = AffineWeight.from_codes(
        torch.randint(0, 1 << bits, (rows, columns), generator=generator, dtype=torch.uint8),
        (torch.rand(rows, groups, generator=generator) * 0.01 + 0.002).half(),
        None if form == "symmetric" else zeros,
        bits=bits,
        group_size=size,
        dtype=dtype,
        g_idx=index.to(torch.int32),
    )
    return weight.with_offsets(rounded=True) if form == "offsets" else weight


class TestKernel(KernelSuite):
    pack = "torch-cpu"
    distribution = "quantload"
    kernels = ("torch-bags",)
    configs: ClassVar = {
        "2 bits, ragged groups": {"bits": 2, "group_size": 24},
        "3 bits, act-order": {"bits": 3, "group_size": 32, "form": "act-order"},
        "5 bits, offsets": {"bits": 5, "group_size": 16, "form": "offsets"},
        "8 bits, symmetric rows": {"bits": 8, "group_size": -1, "form": "symmetric"},
    }
    shapes = ((64, 128), (270, 64))
    rows = (1, 2, 5, 33)
    shard_dims = (0, 1)
    extra_bytes = 1.5
    """Groups of so few columns have more scales than codes."""

    def packed_weight(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> PackedWeight:
        return made(shape, **config, dtype=dtype)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("rows", [20, 256, 301])
def test_codes_come_back_from_a_table(bits: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    codes = torch.randint(0, 1 << bits, (rows, 40), dtype=torch.uint8, generator=generator)
    table = bags.pack(codes, bits, 1 << (bits - 1))
    assert torch.equal(bags.codes_of(table, bits, rows, 40), codes)
    ids = torch.tensor([rows - 1, 0, 11, 11])
    assert torch.equal(bags.codes_of_rows(table, bits, rows, 40, ids), codes[ids])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_table_takes_what_its_codes_take(bits: int) -> None:
    table = bags.pack(torch.zeros(1000, 512, dtype=torch.uint8), bits, 0)
    assert table.nbytes <= 1.08 * 1000 * 512 * bits / 8


@pytest.mark.parametrize("form", ["plain", "act-order", "offsets", "symmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_sums_are_exact_to_float32(bits: int, form: str) -> None:
    weight = made((64, 512), bits, 32, form)
    exact = weight.dequantize(torch.float64)
    prepare(weight, "torch-bags")
    x = example(2, 512, dtype=torch.float32)
    truth = x.double() @ exact.T
    with mock.patch.object(bags_product, "decoded_blocks", side_effect=AssertionError("decoded")):
        assert (weight(x) - truth).norm() / truth.norm() < 1e-6


def test_it_serves_what_the_int4_product_cannot() -> None:
    assert prepare(made((64, 128), 4, 32, dtype=torch.float16)).chosen == "torch-bags"
    assert prepare(made((64, 128), 4, 16, dtype=torch.bfloat16)).chosen == "torch-bags"
    assert prepare(made((63, 128), 8, 32, dtype=torch.bfloat16)).chosen == "torch-bags"


def test_rows_are_read_without_restoring_the_weight() -> None:
    for form in ("plain", "act-order"):
        weight = made((300, 128), 3, 32, form)
        ids = torch.tensor([[3, 299], [40, 3]])
        expected = weight(ids)
        prepare(weight, "torch-bags")
        with mock.patch.object(TorchBags, "restore", side_effect=AssertionError("restored")):
            assert torch.equal(weight(ids), expected)


def test_the_crossings_are_data_and_sensible() -> None:
    for stored in (2, 4, 8):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            assert 1 <= bags_product.crossing(stored, dtype) <= 64
    assert bags_product.crossing(8, torch.float64) == 0


def test_the_operator_is_registered_as_torch_wants_it() -> None:
    weight = made((64, 128), 5, 32, "act-order")
    prepare(weight, "torch-bags")
    own = weight.storage()
    x = example(2, 128, dtype=torch.float32).requires_grad_()
    names = ("table", "factors", "shifts", "added", "starts", "run_groups", "order")
    arguments = (x, *(own.get(name) for name in names), 5, 64, 0)
    torch.library.opcheck(torch.ops.quantload.affine_bags_cpu.default, arguments)
