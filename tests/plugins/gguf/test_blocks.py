"""Every block type decodes to the bits the `gguf` package gives."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload_gguf import dequantize, ggml_type
from quantload_gguf.blocks import decode
from quantload_gguf.ggml import RETIRED, TYPES

WEIGHTS = [t.name for t in TYPES if t.decodable]
# What a half float can be: zeros, denormals, ordinary numbers, infinities, NaNs.
HALVES = (0x0000, 0x8000, 0x0001, 0x83FF, 0x3C00, 0xC5A3, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0xFE01)


def reference(blocks: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(blocks, GGMLQuantizationType[name])


def random_blocks(name: str, rows: int, seed: int = 0) -> np.ndarray:
    kind = ggml_type(name)
    width = kind.nbytes * (3 if kind.packed else 37)
    return np.random.default_rng(seed).integers(0, 256, (rows, width), dtype=np.uint8)


def assert_same_bits(found: torch.Tensor, expected: np.ndarray) -> None:
    """Bits are equal, except that any NaN is as good as another."""
    found = found.numpy()
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(found.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


def test_the_table_of_types_is_that_of_the_gguf_package():
    assert {(t.name, t.number) for t in TYPES} == {(t.name, int(t)) for t in GGMLQuantizationType}
    for kind in TYPES:
        sizes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType(kind.number)]
        assert (kind.elements, kind.nbytes) == sizes


def test_every_type_the_gguf_package_decodes_is_decoded():
    assert set(WEIGHTS) == set(decode.DECODERS)
    assert set(WEIGHTS) >= {t.name for t in gguf.quants._type_traits}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("rows", [1, 7, 33])
def test_random_bytes_decode_to_the_same_bits(name, rows):
    blocks = random_blocks(name, rows, seed=rows)
    assert_same_bits(dequantize(torch.from_numpy(blocks), name), reference(blocks, name))


@pytest.mark.parametrize("name", [t.name for t in TYPES if t.decodable and t.packed])
def test_every_kind_of_scale_decodes_to_the_same_bits(name):
    kind = ggml_type(name)
    blocks = random_blocks(name, len(HALVES), seed=5)
    wide = kind.wide or {"IQ1_M": ()}.get(name, ((0, 1, 2),))
    for offset, count, _ in wide:
        for at in range(offset, offset + 2 * count, 2):
            halves = np.array(HALVES, dtype="<u2").view(np.uint8).reshape(-1, 2)
            blocks[:, at : at + 2] = halves
    if name == "IQ1_M":
        for i in range(4):
            top = (np.array(HALVES) >> (4 * i) & 15) << 4
            blocks[:, 49 + 2 * i] = blocks[:, 49 + 2 * i] & 15 | top.astype(np.uint8)
    assert_same_bits(dequantize(torch.from_numpy(blocks), name), reference(blocks, name))


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("byte", [0x00, 0x01, 0x7F, 0x80, 0xAA, 0xFE, 0xFF])
def test_blocks_of_one_byte_decode_to_the_same_bits(name, byte):
    blocks = np.full((2, 8 * ggml_type(name).nbytes), byte, dtype=np.uint8)
    assert_same_bits(dequantize(torch.from_numpy(blocks), name), reference(blocks, name))


@pytest.mark.parametrize("name", ["MXFP4", "NVFP4"])
def test_every_eight_bit_scale_decodes_to_the_same_bits(name):
    kind = ggml_type(name)
    blocks = np.random.default_rng(1).integers(0, 256, (256, kind.nbytes), dtype=np.uint8)
    blocks[:, 0] = np.arange(256)
    assert_same_bits(dequantize(torch.from_numpy(blocks), name), reference(blocks, name))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q6_K", "IQ2_XXS", "IQ3_S", "IQ1_M", "NVFP4"])
def test_more_blocks_than_are_decoded_at_once(name, monkeypatch):
    blocks = random_blocks(name, 50)
    monkeypatch.setitem(decode.CHUNK, "cpu", 7 * ggml_type(name).elements)
    assert_same_bits(dequantize(torch.from_numpy(blocks), name), reference(blocks, name))


@pytest.mark.parametrize("name", WEIGHTS)
def test_default_dtype_and_device_do_not_matter(name):
    blocks = random_blocks(name, 2)
    from quantload_gguf.blocks.fields import on_device

    on_device.cache_clear()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            found = dequantize(torch.from_numpy(blocks), name)
    finally:
        torch.set_default_dtype(torch.float32)
        on_device.cache_clear()
    assert_same_bits(found, reference(blocks, name))


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_result_is_new_memory(name):
    blocks = torch.zeros(1, ggml_type(name).nbytes, dtype=torch.uint8)
    dequantize(blocks, name).fill_(1.0)
    assert not blocks.any()


def test_three_dimensions_and_another_dtype():
    blocks = torch.from_numpy(random_blocks("Q5_K", 6)).view(2, 3, -1)
    found = dequantize(blocks, 13, torch.bfloat16)
    assert found.shape == (2, 3, 768)
    expected = torch.from_numpy(reference(blocks.numpy(), "Q5_K")).to(torch.bfloat16)
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


def test_blocks_that_begin_at_an_odd_byte():
    blocks = random_blocks("Q4_0", 1)
    shifted = torch.zeros(blocks.size + 1, dtype=torch.uint8)
    shifted[1:] = torch.from_numpy(blocks[0])
    assert_same_bits(dequantize(shifted[1:], "Q4_0"), reference(blocks[0], "Q4_0"))


@pytest.mark.parametrize(
    ("blocks", "name", "says"),
    [
        (torch.zeros(3, 17, dtype=torch.uint8), "Q4_0", r"a multiple of 18.*uint8 \[3, 17\]"),
        (torch.zeros(3, 18, dtype=torch.int8), "Q4_0", r"found int8"),
        (torch.zeros(3, 18, dtype=torch.uint8), "Q4_Z", r"did you mean Q4_"),
        (torch.zeros(3, 18, dtype=torch.uint8), 31, r"Q4_0_4_4\) was retired"),
        (torch.zeros(3, 18, dtype=torch.uint8), 1000, r"1000 is unknown"),
    ],
)
def test_what_cannot_be_decoded_says_why(blocks, name, says):
    with pytest.raises(CheckpointError, match=says):
        dequantize(blocks, name)


@pytest.mark.parametrize("name", [t.name for t in TYPES if not t.decodable])
def test_types_without_weights_are_refused(name):
    with pytest.raises(UnsupportedOperationError, match="no type for weights"):
        dequantize(torch.zeros(1, ggml_type(name).nbytes, dtype=torch.uint8), name)


def test_retired_numbers_are_no_types():
    assert not set(RETIRED) & {t.number for t in TYPES}
    for number in RETIRED:
        with pytest.raises(CheckpointError, match="retired"):
            ggml_type(number)
