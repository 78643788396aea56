"""The int4 kernel gives the reference's products, and gives every byte back."""

import copy

import pytest
import torch

from quantload.errors import NoKernelError
from quantload.kernels import KernelSpec, prepare, select
from quantload.weights import bags
from quantload_gguf import GgufWeight, ggml_type
from quantload_gguf.ggml import TYPES
from quantload_gguf.kernels import bag_products, products, tiles
from quantload_gguf.kernels.bags import BagsKernel
from quantload_gguf.kernels.codes import AFFINE
from quantload_gguf.kernels.int4 import Int4Kernel


@pytest.fixture(autouse=True)
def _torch_alone(monkeypatch):
    """These kernels serve where the pack with faster ones is not installed."""
    monkeypatch.setenv("QUANTLOAD_DISABLE", "quantload-kernels-cpu")


needs_tiles = pytest.mark.skipif(
    not tiles.tile_rows(), reason="torch has no int4 matmul with a known layout on this CPU"
)
needs_bags = pytest.mark.skipif(
    not bags.available(), reason="torch has no fast embedding bags for this CPU"
)
KINDS = list(AFFINE)
COLUMNS = 512


@pytest.fixture
def weight_of(sane_blocks):
    def make(kind: str, rows: int = 128, dtype=torch.bfloat16, seed: int = 0) -> GgufWeight:
        blocks = sane_blocks(kind, rows, COLUMNS // ggml_type(kind).elements, seed)
        return GgufWeight.from_blocks(blocks, kind, dtype=dtype)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_codes_and_scales(kind, sane_blocks):
    """`scale * code + offset` is the number, and codes put back give the block."""
    affine, elements = AFFINE[kind], ggml_type(kind).elements
    blocks = sane_blocks(kind, 40, 1)
    codes = affine.split(blocks)
    assert int(codes.max()) < 1 << affine.bits
    scale, offset = affine.affine(blocks)
    groups = codes.view(40, -1, affine.group) * scale.unsqueeze(-1) + offset.unsqueeze(-1)
    expected = GgufWeight.from_blocks(blocks, kind).dequantize()
    torch.testing.assert_close(groups.view(40, elements), expected, atol=1e-5, rtol=1e-5)
    again = torch.zeros_like(blocks)
    for a, b in affine.scales:
        again[:, a:b] = blocks[:, a:b]
    affine.join(again, codes)
    assert torch.equal(again, blocks)


@pytest.mark.parametrize("tile", [32, 64])
def test_tiles_are_packed_and_unpacked(tile):
    codes = torch.randint(0, 16, (128, 64), dtype=torch.uint8)
    packed = tiles.pack(codes, tile)
    assert torch.equal(tiles.unpack(packed, tile), codes)
    ids = torch.tensor([0, 31, 32, 63, 64, 127, 5])
    assert torch.equal(tiles.rows_of(packed, tile, ids), codes[ids])
    for run in (16, 32):
        pairs = codes.view(128, -1, 2, run)
        joined = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(128, 32)
        assert torch.equal(tiles.pack_nibbles(joined, run, tile), packed)


@needs_tiles
def test_tiles_are_those_of_torch():
    codes = torch.randint(0, 16, (192, 96), dtype=torch.uint8)
    expected = torch._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)
    assert torch.equal(tiles.pack(codes, tiles.tile_rows()), expected)


@needs_tiles
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [(1,), (3,), (2, 7), (40,), (161,), (300,), (0,)])
def test_products_are_within_the_rounding_of_bfloat16(kind, rows, weight_of):
    weight = weight_of(kind)
    exact = weight.dequantize(torch.float32)
    x = torch.randn(*rows, COLUMNS, generator=torch.Generator().manual_seed(1)).bfloat16()
    selection = prepare(weight)
    assert selection.chosen == (
        "ggml-bags" if AFFINE[kind].bits > 4 and bags.available() else "ggml-int4"
    )
    prepare(weight, "ggml-int4")
    found = weight.linear(x)
    assert found.dtype == torch.bfloat16
    assert found.shape == (*rows, 128)
    expected = x.float() @ exact.T
    assert (found.float() - expected).norm() <= 2**-7 * expected.norm()


@needs_tiles
@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_comes_back(kind, weight_of):
    weight = weight_of(kind, rows=640)
    before = weight.blocks.clone()
    prepare(weight, "ggml-int4")
    weight.linear(torch.randn(2, COLUMNS).bfloat16())
    weight.linear(torch.randn(400, COLUMNS).bfloat16())
    assert "blocks" not in weight.storage()
    assert torch.equal(weight.canonical().storage()["blocks"], before)
    assert torch.equal(copy.deepcopy(weight).canonical().storage()["blocks"], before)
    weight.repack(None)
    assert torch.equal(weight.blocks, before)


@needs_tiles
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_exact_and_restore_nothing_else(kind, weight_of, monkeypatch):
    weight = weight_of(kind)
    expected = weight.dequantize()
    prepare(weight, "ggml-int4")
    monkeypatch.setattr(Int4Kernel, "restore", lambda *args: pytest.fail("restored it all"))
    ids = torch.tensor([[0, 64, 33], [127, 31, 95]])
    assert torch.equal(weight.rows(ids), expected[ids])


@needs_tiles
@pytest.mark.parametrize("kind", ["Q4_0", "Q6_K"])
def test_the_gradient_reaches_the_input(kind, weight_of):
    weight = weight_of(kind)
    matrix = weight.dequantize()
    prepare(weight, "ggml-int4")
    x = torch.randn(3, COLUMNS).bfloat16().requires_grad_()
    weight.linear(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3, 128).bfloat16() @ matrix)


@needs_tiles
@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0", "Q6_K"])
def test_other_dtypes_go_through_the_reference(kind, weight_of):
    weight = weight_of(kind)
    x = torch.randn(3, COLUMNS)
    expected = weight.linear(x)
    prepare(weight, "ggml-int4")
    assert torch.equal(weight.linear(x), expected)


@needs_tiles
def test_nothing_is_changed_by_a_product(weight_of):
    weight = weight_of("Q5_K")
    prepare(weight, "ggml-int4")
    before = {name: tensor.clone() for name, tensor in weight.storage().items()}
    x = torch.randn(5, COLUMNS).bfloat16()
    kept = x.clone()
    first = weight.linear(x)
    for _ in range(3):
        assert torch.equal(weight.linear(x), first)
    assert torch.equal(x, kept)
    assert all(torch.equal(t, before[name]) for name, t in weight.storage().items())


@needs_tiles
@pytest.mark.parametrize("kind", ["Q4_0", "Q6_K"])
def test_it_is_traced_as_one_graph(kind, weight_of):
    weight = weight_of(kind)
    prepare(weight, "ggml-int4")
    compiled = torch.compile(weight.linear, backend="eager", fullgraph=True, dynamic=True)
    for rows in (1, 5, 200):
        x = torch.randn(rows, COLUMNS).bfloat16()
        with torch.no_grad():
            assert torch.equal(compiled(x), weight.linear(x))


@pytest.mark.parametrize("kind", [t.name for t in TYPES if t.decodable and t.name not in AFFINE])
def test_types_without_a_form_stay_with_the_reference(kind, sane_blocks):
    weight = GgufWeight.from_blocks(sane_blocks(kind, 64, 2), kind, dtype=torch.bfloat16)
    verdict = Int4Kernel().supports(KernelSpec.of(weight))
    assert not verdict
    assert f"has no form for {kind}" in verdict.reason
    assert prepare(weight).chosen == "reference"


@pytest.mark.parametrize(
    ("rows", "dtype", "says"),
    [(128, torch.float32, "bfloat16 only"), (100, torch.bfloat16, "multiples of")],
)
def test_what_it_cannot_run_it_says(rows, dtype, says, weight_of, monkeypatch):
    monkeypatch.setattr(tiles, "tile_rows", lambda: 64)
    monkeypatch.setattr(bags, "available", lambda: False)
    weight = weight_of("Q4_0", rows=rows, dtype=dtype)
    kernel, selection = select(KernelSpec.of(weight))
    assert kernel is None
    assert says in str(selection)
    with pytest.raises(NoKernelError, match=says):
        prepare(weight, "ggml-int4")


def test_a_cpu_without_the_matmul_is_a_reason(weight_of, monkeypatch):
    monkeypatch.setattr(tiles, "tile_rows", lambda: 0)
    verdict = Int4Kernel().supports(KernelSpec.of(weight_of("Q4_0")))
    assert not verdict
    assert "no int4 matmul" in verdict.reason


@needs_tiles
def test_many_rows_are_decoded_in_parts(weight_of, monkeypatch):
    weight = weight_of("Q5_0", rows=640)
    prepare(weight, "ggml-int4")
    x = torch.randn(200, COLUMNS).bfloat16()
    whole = weight.linear(x)
    monkeypatch.setattr(products, "DECODED", 70 * COLUMNS)
    monkeypatch.setattr(products, "MULTIPLIED", 200 * COLUMNS)
    torch.testing.assert_close(weight.linear(x), whole)


@needs_bags
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_codes_are_the_products_of_the_reference(kind, dtype, weight_of, monkeypatch):
    """Few rows and many, in float32 to its last bits, whatever the number of rows."""
    monkeypatch.setattr(tiles, "tile_rows", lambda: 0)
    weight = weight_of(kind, rows=300, dtype=dtype)
    exact = weight.dequantize(torch.float64)
    assert prepare(weight).chosen == "ggml-bags"
    for rows in ((1,), (2, 1), (3,), (40,), (0,)):
        x = torch.randn(*rows, COLUMNS, generator=torch.Generator().manual_seed(1)).to(dtype)
        found = weight.linear(x)
        assert found.dtype == dtype
        assert found.shape == (*rows, 300)
        truth = x.double() @ exact.T
        assert (found - truth).norm() <= max(1e-6, torch.finfo(dtype).eps / 2) * truth.norm()


@needs_bags
@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_comes_back_from_bags(kind, weight_of, monkeypatch):
    weight = weight_of(kind, rows=300, dtype=torch.float32)
    before, numbers = weight.blocks.clone(), weight.dequantize()
    prepare(weight, "ggml-bags")
    monkeypatch.setattr(BagsKernel, "restore", lambda *args: pytest.fail("restored it all"))
    ids = torch.tensor([[0, 299, 33], [127, 31, 256]])
    assert torch.equal(weight.rows(ids), numbers[ids])
    monkeypatch.undo()
    assert "blocks" not in weight.storage()
    assert torch.equal(copy.deepcopy(weight).canonical().storage()["blocks"], before)
    weight.repack(None)
    assert torch.equal(weight.blocks, before)


@needs_bags
def test_bags_are_traced_as_one_graph_and_let_gradients_through(weight_of):
    weight = weight_of("Q5_K", dtype=torch.float32)
    matrix = weight.dequantize()
    prepare(weight, "ggml-bags")
    compiled = torch.compile(weight.linear, backend="eager", fullgraph=True, dynamic=True)
    for rows in (1, 5, 40):
        x = torch.randn(rows, COLUMNS)
        with torch.no_grad():
            assert torch.equal(compiled(x), weight.linear(x))
    x = torch.randn(3, COLUMNS).requires_grad_()
    weight.linear(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3, 128) @ matrix)


@needs_bags
def test_limits_of_bags_are_given_for_every_width_and_dtype():
    assert {bits for bits, _ in bag_products.FEW_ROWS} == {2, 4, 8}
    assert all(1 <= rows <= 64 for rows in bag_products.FEW_ROWS.values())
