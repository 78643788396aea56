from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantload import AutoHfQuantizer, CheckpointError
from quantload.errors import UnsupportedOperationError
from quantload.kernels import prepare
from quantload_aqlm.kernels import pays


def make(rows, columns, count, nbits, out_group=1, in_group=8, dtype=torch.float16, seed=0):
    """Tensors of one layer as a file holds them, and the config that goes with them."""
    g = torch.Generator().manual_seed(seed)
    shape = (rows // out_group, columns // in_group, count)
    codes = torch.randint(0, 1 << nbits, shape, generator=g)
    signed = torch.where(codes >= 1 << (nbits - 1), codes - (1 << nbits), codes)
    kind = torch.int8 if nbits <= 8 else torch.int16 if nbits <= 16 else torch.int32
    tensors = {
        "codes": signed.to(kind),
        "codebooks": torch.randn(count, 1 << nbits, out_group, in_group, generator=g).to(dtype),
        "scales": (torch.rand(shape[0], 1, 1, 1, generator=g) + 0.5).to(dtype),
    }
    config = {
        "quant_method": "aqlm",
        "num_codebooks": count,
        "nbits_per_codebook": nbits,
        "out_group_size": out_group,
        "in_group_size": in_group,
    }
    return config, tensors, codes


def decoded_slowly(tensors, codes):
    """One weight at a time, from the description of the format."""
    books, scales = tensors["codebooks"].double(), tensors["scales"].double()
    count, _, out_group, in_group = books.shape
    rows, columns, _ = codes.shape
    matrix = torch.zeros(rows * out_group, columns * in_group, dtype=torch.float64)
    for r in range(rows):
        for c in range(columns):
            tile = sum(books[k, int(codes[r, c, k])] for k in range(count)) * scales[r, 0, 0, 0]
            matrix[r * out_group : (r + 1) * out_group, c * in_group : (c + 1) * in_group] = tile
    return matrix


LAYOUTS = [
    (16, 32, 1, 16, 1, 8),
    (12, 32, 2, 8, 1, 8),
    (12, 32, 1, 8, 1, 4),
    (8, 16, 4, 8, 1, 8),
    (8, 24, 1, 12, 1, 8),
    (8, 16, 2, 8, 4, 4),
    (6, 10, 3, 5, 2, 5),
    (4, 8, 1, 2, 1, 8),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda v: "x".join(map(str, v)))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_it_decodes_what_the_format_says(layout, dtype):
    config, tensors, codes = make(*layout, dtype=dtype)
    weight = AutoHfQuantizer.from_config(config).pack("layer", tensors)
    expected = decoded_slowly(tensors, codes)
    assert (weight.dequantize(torch.float32) - expected).abs().max() < 1e-5
    ids = torch.tensor([[0, 3], [1, 3]])
    assert torch.equal(weight.rows(ids), weight.dequantize()[ids])


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda v: "x".join(map(str, v)))
def test_unpacking_gives_the_same_bytes_after_any_number_of_products(layout):
    config, tensors, _ = make(*layout)
    before = {k: v.clone() for k, v in tensors.items()}
    quantizer = AutoHfQuantizer.from_config(config)
    weight = quantizer.pack("layer", tensors)
    prepare(weight)
    for rows in (1, 3, 40):
        weight.linear(torch.randn(rows, weight.shape[1]))
    after = quantizer.unpack("layer", weight)
    assert set(after) == set(before)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(before[k].dtype == after[k].dtype for k in before)


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 4),
    nbits=st.integers(1, 10),
    in_group=st.sampled_from([1, 3, 8]),
    rows=st.integers(1, 6),
    columns=st.integers(1, 5),
    batch=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_looking_up_gives_the_product_of_the_decoded_weight(
    count, nbits, in_group, rows, columns, batch, seed
):
    config, tensors, _ = make(
        rows, columns * in_group, count, nbits, 1, in_group, torch.float32, seed
    )
    weight = AutoHfQuantizer.from_config(config).pack("layer", tensors)
    assert prepare(weight).chosen == "aqlm-lookup"
    x = torch.randn(batch, weight.shape[1], generator=torch.Generator().manual_seed(seed))
    expected = x.double() @ weight.dequantize(torch.float64).T
    assert torch.allclose(weight.linear(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_the_product_does_not_depend_on_the_number_of_threads():
    config, tensors, _ = make(256, 512, 2, 8)
    weight = AutoHfQuantizer.from_config(config).pack("layer", tensors)
    prepare(weight)
    x = torch.randn(1, 512)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 4):
            torch.set_num_threads(n)
            results.extend(weight.linear(x) for _ in range(3))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.allclose(results[0], r, atol=1e-4) for r in results[1:])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda t: t.pop("scales"), "scales is missing"),
        (lambda t: t.update(codes=t["codes"][0]), "three dimensions"),
        (lambda t: t.update(codes=t["codes"].float()), "int8, int16 or int32"),
        (lambda t: t.update(codes=t["codes"].to(torch.int8)), "holds 12 bits"),
        (lambda t: t.update(codebooks=t["codebooks"][:, :100]), "power of two"),
        (lambda t: t.update(scales=t["scales"][:-1]), "expected shape"),
        (lambda t: t["scales"].fill_(float("nan")), "NaN"),
        (lambda t: t.update(codes=t["codes"].repeat(1, 1, 2)), "one code for each"),
    ],
)
def test_tensors_that_do_not_fit_are_named(damage, said):
    config, tensors, _ = make(8, 24, 1, 12)
    damage(tensors)
    with pytest.raises(CheckpointError, match=rf"layer.*{said}"):
        AutoHfQuantizer.from_config(config).pack("layer", tensors)


def test_the_tensors_are_believed_where_the_config_disagrees():
    _, tensors, codes = make(8, 16, 2, 8)
    weight = AutoHfQuantizer.from_config({"quant_method": "aqlm"}).pack("layer", tensors)
    assert (weight.dequantize(torch.float32) - decoded_slowly(tensors, codes)).abs().max() < 1e-5


@pytest.mark.parametrize(("dim", "world"), [(0, 2), (1, 4)])
def test_the_parts_of_a_sharded_weight_make_the_whole(dim, world):
    config, tensors, _ = make(16, 32, 2, 8)
    weight = AutoHfQuantizer.from_config(config).pack("layer", tensors)
    parts = [weight.shard(dim, rank, world).dequantize() for rank in range(world)]
    assert torch.equal(torch.cat(parts, dim), weight.dequantize())
    with pytest.raises(UnsupportedOperationError, match="equal parts"):
        weight.shard(0, 0, 3)


def test_a_gradient_reaches_the_input_through_the_chosen_kernel():
    config, tensors, _ = make(16, 32, 2, 8, dtype=torch.float32)
    weight = AutoHfQuantizer.from_config(config).pack("layer", tensors)
    prepare(weight)
    x = torch.randn(2, 32, requires_grad=True)
    weight.linear(x).sum().backward()
    assert torch.allclose(x.grad, weight.dequantize().sum(0).expand(2, -1), atol=1e-5)


def test_looking_up_is_for_few_rows_and_for_tables_smaller_than_what_they_save():
    assert pays(1, 2, 256, 4096)
    assert not pays(64, 2, 256, 4096)
    assert not pays(1, 1, 4096, 256)
