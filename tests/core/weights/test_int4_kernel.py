"""`torch-int4`: the kernel suite, its choice, its crossing, its storage."""

from __future__ import annotations

from typing import ClassVar
from unittest import mock

import pytest
import torch

from quantload.errors import NoKernelError
from quantload.kernels import KernelSpec, prepare
from quantload.testing import KernelSuite
from quantload.testing.declared import Config, Shape, example
from quantload.weights.affine import AffineWeight, int4_order, int4_product
from quantload.weights.affine.int4_kernel import TorchInt4
from quantload.weights.packed import PackedWeight


@pytest.fixture(autouse=True)
def _torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """These kernels serve where the pack with faster ones is not installed."""
    monkeypatch.setenv("QUANTLOAD_DISABLE", "quantload-kernels-cpu")


pytestmark = pytest.mark.skipif(
    int4_order.block_rows() == 0, reason="torch has no vectorized int4 product for this CPU"
)


def made(
    shape: Shape, group_size: int, form: str = "plain", dtype: torch.dtype = torch.bfloat16
) -> AffineWeight:
    rows, columns = shape
    size = columns if group_size == -1 else group_size
    generator = torch.Generator().manual_seed(rows + columns + size)
    groups = -(-columns // size)
    index = torch.arange(columns) // size
    if form == "act-order":
        index = index[torch.randperm(columns, generator=generator)]
    zeros = torch.randint(0, 16, (rows, groups), generator=generator)
    weight = AffineWeight.from_codes(
        torch.randint(0, 16, (rows, columns), generator=generator, dtype=torch.uint8),
        (torch.rand(rows, groups, generator=generator) * 0.01 + 0.002).half(),
        None if form == "symmetric" else zeros,
        bits=4,
        group_size=size,
        dtype=dtype,
        g_idx=index.to(torch.int32),
    )
    return weight.with_offsets(rounded=True) if form == "offsets" else weight


class TestKernel(KernelSuite):
    pack = "torch-cpu"
    distribution = "quantload"
    kernels = ("torch-int4",)
    configs: ClassVar = {
        "groups of 32": {"group_size": 32},
        "symmetric rows": {"group_size": -1, "form": "symmetric"},
        "act-order": {"group_size": 32, "form": "act-order"},
        "offsets": {"group_size": 64, "form": "offsets"},
    }
    shapes = ((64, 128), (192, 64))
    rows = (1, 2, 5, 16, 99)
    shard_dims = (0, 1)
    extra_bytes = 0.3

    def packed_weight(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> PackedWeight:
        return made(shape, **config, dtype=dtype)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (made((64, 64), 16), "multiples of 32 columns"),
        (made((63, 64), 32), "rows must be a multiple of"),
        (made((64, 64), 32, dtype=torch.float32), "compute dtype is torch.float32"),
        (
            AffineWeight.from_codes(
                torch.zeros(64, 64, dtype=torch.uint8),
                torch.ones(64, 2),
                bits=8,
                group_size=32,
                dtype=torch.bfloat16,
            ),
            "codes of 4 bits, not of 8",
        ),
    ],
)
def test_what_it_does_not_run_goes_elsewhere_and_is_said(weight: AffineWeight, reason: str) -> None:
    selection = prepare(weight)
    assert selection.chosen in ("torch-bags", "reference")
    assert reason in str(selection)
    with pytest.raises(NoKernelError, match="torch-int4"):
        prepare(weight, "torch-int4")


@pytest.mark.parametrize("group_size", [32, 64, 96, 128, 512, -1])
def test_groups_are_cut_into_runs_that_the_operator_knows(group_size: int) -> None:
    weight = made((64, 1536), group_size)
    exact = weight.dequantize(torch.float32)
    assert prepare(weight).chosen == "torch-int4"
    x = example(3, 1536, dtype=torch.bfloat16)
    error = (weight(x).float() - x.float() @ exact.T).norm() / (x.float() @ exact.T).norm()
    assert error < 0.006


@pytest.mark.parametrize("form", ["plain", "act-order", "offsets", "symmetric"])
def test_few_and_many_rows_agree(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = made((64, 256), 64, form)
    prepare(weight, "torch-int4")
    x = example(8, 256, dtype=torch.bfloat16)
    packed = weight(x)
    monkeypatch.setattr(int4_product, "crossing", lambda: 0)
    decoded = weight(x)
    assert not torch.equal(packed, decoded)  # they are two ways, indeed
    assert (packed.float() - decoded.float()).norm() / decoded.float().norm() < 0.01


def test_a_constant_input_does_not_bring_out_the_rounding_of_zero_points() -> None:
    weight = made((64, 2048), 128)
    exact = weight.dequantize(torch.float64)
    prepare(weight, "torch-int4")
    x = torch.ones(1, 2048, dtype=torch.bfloat16)
    error = (weight(x).double() - x.double() @ exact.T).abs().max()
    assert error < 0.01 * (x.double() @ exact.abs().T).max()


@pytest.mark.parametrize("form", ["plain", "act-order", "offsets", "symmetric"])
def test_rows_are_read_without_restoring_the_weight(form: str) -> None:
    weight = made((128, 256), 64, form)
    ids = torch.tensor([[3, 127], [40, 3]])
    expected = weight(ids)
    prepare(weight, "torch-int4")
    with mock.patch.object(TorchInt4, "restore", side_effect=AssertionError("restored")):
        assert torch.equal(weight(ids), expected)


def test_the_crossing_is_data_and_sensible() -> None:
    assert 8 <= int4_product.crossing() <= 256


def test_the_operator_is_registered_as_torch_wants_it() -> None:
    weight = made((64, 128), 32, "act-order")
    prepare(weight, "torch-int4")
    own = weight.storage()
    x = example(2, 128, dtype=torch.bfloat16).requires_grad_()
    arguments = (x, own["int4"], own["pairs"], own["scales"], own["zeros"], None)
    torch.library.opcheck(
        torch.ops.quantload.affine_int4_cpu.default,
        (*arguments, own["run_groups"], own["order"]),
    )


def test_codes_are_arranged_and_found_again_in_any_number_of_blocks() -> None:
    block = int4_order.block_rows()
    generator = torch.Generator().manual_seed(0)
    for rows in (block, 3 * block):
        codes = torch.randint(0, 16, (rows, 34), generator=generator, dtype=torch.uint8)
        assert torch.equal(int4_order.rows_of(int4_order.pack(codes, block)), codes)


def test_the_verdict_on_another_device_names_it() -> None:
    spec = KernelSpec.of(made((64, 64), 32))
    moved = KernelSpec(
        spec.layout, torch.device("cuda"), (9, 0), spec.dtype, spec.shape, spec.params
    )
    assert "not on cuda" in TorchInt4().supports(moved).reason
