"""`AffineWeight`: numbers, groups in any order, offsets, splitting, compute dtypes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload.modules import QuantizedEmbedding, QuantizedLinear
from quantload.weights.affine import AffineWeight, Origin, decode
from quantload.weights.affine.rtn import round_to_nearest


def made(
    bits: int = 4,
    rows: int = 24,
    columns: int = 96,
    group_size: int = 32,
    order: str = "plain",
    scale_dtype: torch.dtype = torch.float16,
    offsets: bool = False,
) -> AffineWeight:
    generator = torch.Generator().manual_seed(bits + columns)
    groups = -(-columns // group_size)
    index = torch.arange(columns) // group_size
    if order == "random":
        index = torch.randint(0, groups, (columns,), generator=generator)
    return AffineWeight.from_codes(
        torch.randint(0, 1 << bits, (rows, columns), generator=generator, dtype=torch.uint8),
        (torch.rand(rows, groups, generator=generator) + 0.01).to(scale_dtype),
        None if offsets else torch.randint(0, (1 << bits) + 1, (rows, groups), generator=generator),
        bits=bits,
        group_size=group_size,
        g_idx=None if order == "absent" else index.to(torch.int32),
        offsets=torch.randn(rows, groups, generator=generator).half() if offsets else None,
    )


def by_hand(weight: AffineWeight) -> torch.Tensor:
    """Element by element, in float64."""
    rows, columns = weight.shape
    table = torch.empty(rows, columns, dtype=torch.float64)
    codes = weight.plain_codes()
    for column in range(columns):
        group = column // weight.group_size if weight.g_idx is None else int(weight.g_idx[column])
        scale = weight.scales[:, group].double()
        if weight.offsets is not None:
            table[:, column] = scale * codes[:, column] + weight.offsets[:, group].double()
        else:
            zero = weight.zero_points()[:, group].double()
            table[:, column] = scale * (codes[:, column].double() - zero)
    return table


FORMS = [
    {"order": "absent"},
    {"order": "plain"},
    {"order": "random"},
    {"columns": 80, "group_size": 32, "order": "absent"},
    {"columns": 75, "group_size": 75, "order": "absent"},
    {"offsets": True, "order": "absent"},
    {"offsets": True, "order": "random"},
    {"scale_dtype": torch.bfloat16},
    {"scale_dtype": torch.float32, "order": "random"},
]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_numbers_are_those_of_the_definition(bits: int, form: dict[str, object]) -> None:
    weight = made(bits, **form)
    exact = by_hand(weight)
    assert torch.equal(weight.dequantize(torch.float64), exact)
    assert torch.equal(weight.dequantize(torch.float32), exact.float())
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(weight.dequantize(dtype), exact.float().to(dtype))
    ids = torch.tensor([5, 0, 5])
    weight.set_compute_dtype(torch.float32)
    assert torch.equal(weight.rows(ids), exact.float()[ids])


@pytest.mark.parametrize("rows_of_x", [1, 3, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_blocks_of_rows_give_the_whole_product(
    rows_of_x: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(decode._ELEMENTS, "cpu", 500)
    weight = made(order="random")
    x = torch.randn(2, rows_of_x, 96, generator=torch.Generator().manual_seed(0)).to(dtype)
    x.requires_grad_()
    y = weight.linear(x)
    exact = x.detach().double() @ by_hand(weight).T
    assert (y.dtype, y.shape) == (dtype, (2, rows_of_x, 24))
    bound = 8 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-6
    assert (y.double() - exact).norm() / exact.norm() < bound
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    expected = by_hand(weight).sum(0).expand_as(x)
    assert (x.grad.double() - expected).norm() / expected.norm() < bound


@pytest.mark.parametrize("rows_of_x", [1, 20])
@pytest.mark.parametrize("scale", [65504.0, 6e-8])
def test_a_float16_product_is_right_where_the_weight_itself_is_no_float16(
    scale: float, rows_of_x: int
) -> None:
    weight = made(bits=8, scale_dtype=torch.float32)
    with torch.no_grad():
        weight.scales.fill_(scale)
    x = torch.randn(rows_of_x, 96, generator=torch.Generator().manual_seed(0)) / 1e4
    x = (x if scale > 1 else x * 1e8).half().requires_grad_()
    exact = x.detach().double() @ by_hand(weight).T
    y = weight.linear(x)
    assert (y.double() - exact).norm() / exact.norm() < 1e-3
    y.backward(torch.full_like(y, 1e-4 if scale > 1 else 1e3))
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize(
    "form", [*FORMS, {"columns": 96, "group_size": 40, "order": "absent"}], ids=str
)
def test_parts_put_together_are_the_whole(dim: int, world: int, form: dict[str, object]) -> None:
    weight = made(**form)
    exact = by_hand(weight)
    if weight.shape[dim] % world:
        with pytest.raises(UnsupportedOperationError, match="cannot be split"):
            weight.shard(dim, 0, world)
        return
    parts = [weight.shard(dim, rank, world) for rank in range(world)]
    joined = torch.cat([part.dequantize(torch.float64) for part in parts], dim)
    assert torch.equal(joined, exact)
    assert all(part.origin is None for part in parts)


def test_columns_out_of_order_keep_every_scale_on_every_part() -> None:
    weight = made(order="random")
    part = weight.shard(1, 0, 2)
    assert part.scales.shape == weight.scales.shape
    plain = made(order="absent", columns=128).shard(1, 0, 2)
    assert plain.scales.shape == (24, 2)
    assert plain.g_idx is None


def test_what_kernels_are_told() -> None:
    plain = made(order="plain")
    told = plain.kernel_params()
    assert told["bits"] == 4
    assert (told["group_size"], told["groups"], told["run"]) == (32, 3, 32)
    assert told["act_order"] is False
    assert told["symmetric"] is False
    assert made(order="random").kernel_params()["act_order"] is True
    symmetric = AffineWeight.from_codes(
        torch.zeros(8, 64, dtype=torch.uint8), torch.ones(8, 2), bits=4, group_size=32
    )
    assert symmetric.kernel_params()["symmetric"] is True
    assert symmetric.kernel_params()["has_zeros"] is False
    assert int(symmetric.zero_points().unique()) == 8


@pytest.mark.parametrize(
    ("columns", "group_size", "run"),
    [(96, 32, 32), (1024, 1024, 256), (96, 64, 32), (80, 40, 8), (7, 7, 1)],
)
def test_runs_of_columns_that_share_a_group(columns: int, group_size: int, run: int) -> None:
    assert made(columns=columns, group_size=group_size, order="absent").run == run


def test_integers_behind_offsets_and_back() -> None:
    weight = made(order="absent")
    with pytest.raises(UnsupportedOperationError, match=r"does not fit torch\.float16"):
        weight.with_offsets()
    rounded = weight.with_offsets(rounded=True)
    assert rounded.zeros is None
    with pytest.raises(UnsupportedOperationError, match="no integer zero-points"):
        rounded.zero_points()
    with pytest.raises(UnsupportedOperationError, match="were rounded"):
        rounded.with_zero_points()
    back = rounded.with_zero_points(rounded=True)
    assert torch.equal(back.dequantize(torch.float64), by_hand(weight))
    with pytest.raises(UnsupportedOperationError, match="not the product of their scale"):
        made(offsets=True).with_zero_points(rounded=True)


def test_a_cast_changes_no_byte() -> None:
    weight = made()
    before = {name: tensor.clone() for name, tensor in weight.storage().items()}
    host = nn.Sequential(QuantizedLinear(weight))
    for cast in (host.half, host.bfloat16, host.double, host.float):
        cast()
        assert all(torch.equal(before[n], t) for n, t in weight.storage().items())


def test_copies_keep_the_origin_and_what_it_needs() -> None:
    kept = {"tail": torch.tensor([1, 2], dtype=torch.int32)}
    weight = AffineWeight.from_codes(
        torch.zeros(2, 32, dtype=torch.uint8),
        torch.ones(2, 1),
        bits=4,
        group_size=32,
        origin=Origin("somewhere", {"word": torch.int32}),
        kept=kept,
    )
    for twin in (copy.deepcopy(weight), pickle.loads(pickle.dumps(weight))):
        assert twin.origin == weight.origin
        assert torch.equal(twin.kept()["tail"], kept["tail"])
        assert twin.run == weight.run
    assert weight.with_zero_points().origin is None
    assert not weight.with_zero_points().kept()


def test_an_embedding_reads_only_its_rows() -> None:
    weight = made(rows=50)
    weight.set_compute_dtype(torch.float32)
    host = QuantizedEmbedding(weight)
    ids = torch.tensor([[49, 3], [0, 3]])
    assert torch.equal(host(ids), by_hand(weight).float()[ids])
    assert host(torch.empty(0, dtype=torch.long)).shape == (0, 96)


@pytest.mark.parametrize("lowest", [0, 1])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_keeps_zero_exact_and_codes_in_range(bits: int, lowest: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(6, 70, generator=generator) + 1
    weight[:, 5] = 0
    found = round_to_nearest(weight, bits=bits, group_size=32, symmetric=False, lowest_zero=lowest)
    assert found.codes.shape == weight.shape
    assert int(found.codes.max()) <= 2**bits - 1
    assert int(found.zeros.min()) >= lowest
    packed = AffineWeight.from_codes(
        found.codes, found.scales, found.zeros, bits=bits, group_size=32
    )
    assert not packed.dequantize(torch.float32)[:, 5].any()


def test_rounding_refuses_what_is_no_number() -> None:
    for value in (torch.nan, torch.inf, -torch.inf):
        weight = torch.zeros(2, 32)
        weight[1, 1] = value
        for symmetric in (True, False):
            with pytest.raises(CheckpointError, match="NaN or infinite"):
                round_to_nearest(weight, bits=4, group_size=32, symmetric=symmetric)
