"""`GgufWeight`: blocks that act as a weight and stay what they are."""

import copy
import pickle

import pytest
import torch

from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload_gguf import GgufWeight, dequantize, open_gguf
from quantload_gguf.ggml import TYPES

PACKED = [t.name for t in TYPES if t.decodable and t.packed]


@pytest.fixture(params=PACKED)
def weight(request, sane_blocks) -> GgufWeight:
    return GgufWeight.from_blocks(sane_blocks(request.param, 6, 2), request.param)


def test_shape_and_numbers(weight):
    columns = 2 * weight.ggml_type.elements
    assert tuple(weight.shape) == (6, columns)
    assert weight.dtype == torch.float32
    assert torch.equal(weight.dequantize(), dequantize(weight.blocks, weight.ggml_type))
    assert weight.dequantize().isfinite().all()
    assert weight.dequantize(torch.float16).dtype == torch.float16


def test_types_by_number_name_and_enum(sane_blocks):
    from gguf import GGMLQuantizationType

    blocks = sane_blocks("Q4_K", 3, 1)
    for which in ("Q4_K", "q4_k", 12, GGMLQuantizationType.Q4_K):
        weight = GgufWeight.from_blocks(blocks, which, (3, 256))
        assert weight.ggml_type.name == "Q4_K"


BLOCKS = torch.zeros(4, 144, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("blocks", "kind", "shape", "says"),
    [
        (BLOCKS, "Q4_Q", None, "no ggml type is called 'Q4_Q'; did you mean"),
        (BLOCKS, 999, None, "ggml type 999 is unknown"),
        (BLOCKS, 4, None, "was retired"),
        (BLOCKS, None, None, "a ggml type by name or number, found None"),
        (BLOCKS, 12.0, None, "by name or number, found 12.0"),
        (BLOCKS, True, None, "by name or number, found True"),
        (BLOCKS, "Q4_K", (4, 255), "255 elements does not fill the blocks of 256"),
        (BLOCKS, "Q4_K", (5, 256), r"expected blocks of shape \[5, 144\].*found \[4, 144\]"),
        (BLOCKS, "Q4_K", (1024,), r"expected a shape \(rows, columns\), found \(1024,\)"),
        (BLOCKS, "Q4_K", 1024, r"expected a shape \(rows, columns\), found 1024"),
        (BLOCKS.float(), "Q4_K", None, r"as uint8 \[rows, a multiple of 144\], found float32"),
        (BLOCKS[0], "Q4_K", None, r"as uint8 \[rows, a multiple of 144\], found uint8 \[144\]"),
        (BLOCKS[:, :-1], "Q4_K", None, "a multiple of 144"),
        ("blocks", "Q4_K", None, "as a tensor or an array, found str"),
    ],
)
def test_what_makes_no_weight_says_why(blocks, kind, shape, says):
    with pytest.raises(CheckpointError, match=says):
        GgufWeight.from_blocks(blocks, kind, shape)


def test_rows_are_those_of_the_whole(weight):
    ids = torch.tensor([[3, 0], [5, 3]])
    assert torch.equal(weight.rows(ids), weight.dequantize()[ids])
    assert torch.equal(weight(ids), weight.dequantize()[ids])
    assert weight.rows(torch.zeros(0, dtype=torch.long)).shape == (0, weight.shape[1])


def test_only_the_rows_that_are_asked_for_are_decoded(monkeypatch, sane_blocks):
    from quantload_gguf import weight as module

    weight = GgufWeight.from_blocks(sane_blocks("Q6_K", 50, 1), "Q6_K")
    seen = []

    def spy(blocks, kind, dtype):
        seen.append(blocks.shape[0])
        return dequantize(blocks, kind, dtype)

    monkeypatch.setattr(module, "dequantize", spy)
    weight.rows(torch.tensor([4, 4, 7]))
    assert seen == [3]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 5), (0,)])
def test_linear_is_the_product_with_the_decoded_weight(weight, shape):
    x = torch.randn(*shape, weight.shape[1])
    expected = x @ weight.dequantize().T
    torch.testing.assert_close(weight.linear(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_linear_in_parts_gives_the_same(monkeypatch, dtype, sane_blocks):
    from quantload_gguf import weight as module

    weight = GgufWeight.from_blocks(sane_blocks("Q5_0", 7, 3), "Q5_0")
    x = torch.randn(2, 96).to(dtype)
    whole = weight.linear(x)
    monkeypatch.setitem(module.LINEAR_ELEMENTS, "cpu", 96 * 2)
    parts = weight.linear(x)
    assert whole.dtype == parts.dtype == dtype
    torch.testing.assert_close(parts, whole)


def test_the_gradient_reaches_the_input(weight):
    x = torch.randn(3, weight.shape[1], requires_grad=True)
    weight.linear(x).square().sum().backward()
    twin = x.detach().clone().requires_grad_()
    (twin @ weight.dequantize().T).square().sum().backward()
    torch.testing.assert_close(x.grad, twin.grad, atol=1e-3, rtol=1e-3)


def test_a_permutation_of_rows_moves_blocks(weight):
    order = torch.tensor([5, 1, 0, 4, 2, 3])
    moved = weight.take_rows(order)
    assert torch.equal(moved.dequantize(), weight.dequantize()[order])
    assert torch.equal(moved.blocks, weight.blocks[order])
    assert moved.ggml_type is weight.ggml_type


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_shards_put_together_are_the_whole(weight, dim):
    parts = [weight.shard(dim, rank, 2) for rank in range(2)]
    assert all(part.blocks.is_contiguous() for part in parts)
    assert torch.equal(torch.cat([p.dequantize() for p in parts], dim), weight.dequantize())


def test_a_shard_never_cuts_a_block(sane_blocks):
    weight = GgufWeight.from_blocks(sane_blocks("Q4_K", 6, 2), "Q4_K")
    with pytest.raises(UnsupportedOperationError, match="4 equal parts of whole blocks of 256"):
        weight.shard(1, 0, 4)
    with pytest.raises(UnsupportedOperationError, match=r"dimension 0 .* into 4 equal parts"):
        weight.shard(0, 0, 4)


def test_experts_have_three_dimensions(sane_blocks):
    blocks = sane_blocks("Q4_0", 12, 2).view(3, 4, 36)
    weight = GgufWeight.from_blocks(blocks, "Q4_0", (3, 4, 64))
    assert (tuple(weight.shape), weight.ndim) == ((3, 4, 64), 3)
    assert torch.equal(weight.dequantize(), dequantize(blocks, "Q4_0"))
    one = weight.rows(torch.tensor(2))
    assert torch.equal(one, weight.dequantize()[2])
    assert tuple(weight.shard(0, 1, 3).shape) == (1, 4, 64)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_plain_types_are_weights_too(kind):
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    values = torch.randn(4, 6).to(dtype)
    weight = GgufWeight.from_blocks(values.view(torch.uint8), kind, (4, 6))
    assert torch.equal(weight.dequantize(), values.float())


def test_casts_change_the_compute_dtype_and_no_byte(weight):
    before = weight.blocks.clone()
    for cast in (weight.half, weight.bfloat16, lambda: weight.to(torch.float64)):
        cast()
        assert torch.equal(weight.blocks, before)
    assert weight.dtype == torch.float64
    assert weight.dequantize().dtype == torch.float64


def test_copies_and_pickles_are_the_same_weight(weight):
    for twin in (copy.deepcopy(weight), pickle.loads(pickle.dumps(weight))):
        assert torch.equal(twin.blocks, weight.blocks)
        assert torch.equal(twin.dequantize(), weight.dequantize())
        assert twin.ggml_type == weight.ggml_type


@pytest.mark.parametrize(
    ("blocks", "kind", "shape", "says"),
    [
        (
            torch.zeros(2, 18, dtype=torch.uint8),
            "Q4_0",
            (2, 64),
            r"expected blocks of shape \[2, 36\]",
        ),
        (torch.zeros(2, 18, dtype=torch.uint8), "Q4_0", (3, 32), r"\[3, 18\].*found \[2, 18\]"),
        (torch.zeros(2, 18, dtype=torch.uint8), "Q4_0", (2, 33), "33 elements does not fill"),
        (torch.zeros(2, 17, dtype=torch.uint8), "Q4_0", None, "a multiple of 18"),
        (torch.zeros(2, 18), "Q4_0", None, "found float32"),
        (torch.zeros(18, dtype=torch.uint8), "Q4_0", None, r"found uint8 \[18\]"),
    ],
)
def test_blocks_that_are_not_those_of_the_shape(blocks, kind, shape, says):
    with pytest.raises(CheckpointError, match=says):
        GgufWeight.from_blocks(blocks, kind, shape)


def test_types_without_weights_are_refused():
    with pytest.raises(UnsupportedOperationError, match="Q8_1 is no type for weights"):
        GgufWeight.from_blocks(torch.zeros(2, 40, dtype=torch.uint8), "Q8_1")


def test_a_weight_of_a_file_lies_in_the_file(write_gguf, quantized):
    path = write_gguf({"w": quantized("Q8_0", (4, 64)), "e": quantized("Q4_0", (2, 3, 32))})
    with open_gguf(path) as file:
        weight = file.weight("w", torch.bfloat16)
        assert weight.blocks.data_ptr() == file.read("w").data_ptr()
        assert weight.dequantize().dtype == torch.bfloat16
        assert tuple(file.weight("e").shape) == (2, 3, 32)
        assert torch.equal(weight.dequantize(torch.float32), file.dequantize("w"))
