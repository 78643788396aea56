"""Planes, streams, interleaves and tiles: against plain integers, and back again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantload.weights.affine.fields import gather, recast, spread
from quantload.weights.affine.interleave import (
    deinterleave,
    interleave,
    rows_from_fast,
    rows_to_fast,
)
from quantload.weights.affine.planes import PLANES, pack_planes, padded, row_bytes, unpack_planes
from quantload.weights.affine.streams import (
    pack_stream,
    planar_to_rows,
    rows_to_planar,
    tail_of,
    unpack_stream,
    words_for,
)
from quantload.weights.affine.tiles import (
    rows_from_tiles,
    rows_to_tiles,
    scales_from_tiles,
    scales_to_tiles,
)

WIDTHS = range(2, 9)
WORDS = (torch.int8, torch.int16, torch.int32)


def codes(rows: int, columns: int, bits: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1 << bits, (rows, columns), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_fields_are_spread_from_the_least_significant_on(width: int) -> None:
    every = torch.arange(256, dtype=torch.uint8)
    expected = [(b >> s) % (1 << width) for b in range(256) for s in range(0, 8, width)]
    assert spread(every, width).tolist() == expected
    assert torch.equal(gather(spread(every, width), width), every)


@settings(deadline=None, database=None)
@given(st.integers(2, 8), st.integers(1, 5), st.integers(1, 100), st.integers(0, 1 << 31))
def test_planes_hold_the_bits_where_they_are_said_to_be(
    bits: int, rows: int, columns: int, seed: int
) -> None:
    plain = codes(rows, columns, bits, seed)
    packed = pack_planes(plain, bits)
    assert packed.shape == (rows, row_bytes(columns, bits))
    number = int.from_bytes(bytes(packed[0].tolist()), "little")
    start, offset = 0, 0
    for width in PLANES[bits]:
        for k in range(padded(columns)):
            field = (number >> (start + k * width)) % (1 << width)
            code = int(plain[0, k]) if k < columns else 0
            assert field == (code >> offset) % (1 << width)
        start, offset = start + padded(columns) * width, offset + width
    assert torch.equal(unpack_planes(packed, bits, columns), plain)


@settings(deadline=None, database=None)
@given(
    st.sampled_from(WIDTHS),
    st.sampled_from(WORDS),
    st.integers(1, 70),
    st.integers(1, 4),
    st.integers(0, 1 << 31),
)
def test_a_stream_is_one_little_endian_number(
    bits: int, word: torch.dtype, count: int, streams: int, seed: int
) -> None:
    plain = codes(count, streams, bits, seed)
    words = pack_stream(plain, bits, word)
    size = word.itemsize * 8
    assert words.dtype == word
    assert words.shape == (words_for(count, bits, word), streams)
    for column in range(streams):
        number = sum(int(c) << (bits * k) for k, c in enumerate(plain[:, column]))
        stored = [int(w) % (1 << size) for w in words[:, column]]
        assert sum(w << (size * i) for i, w in enumerate(stored)) == number
    assert torch.equal(unpack_stream(words, bits, count), plain)
    assert tail_of(words, count * bits) is None


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("streams", [1, 3])
def test_planar_words_are_the_canonical_rows_in_another_order(bits: int, streams: int) -> None:
    rows = pack_planes(codes(streams, 96, bits), bits)
    words = rows_to_planar(rows, bits)
    assert words.shape == (3 * bits, streams)
    assert torch.equal(planar_to_rows(words, bits), rows)
    if len(PLANES[bits]) == 1:
        plain = unpack_planes(rows, bits, 96)
        assert torch.equal(words, pack_stream(plain.T, bits))


@pytest.mark.parametrize("word", WORDS)
def test_a_tail_is_what_stands_above_the_codes(word: torch.dtype) -> None:
    words = torch.full((2, 3), -1, dtype=word)
    used = 2 * word.itemsize * 8 - 5
    tail = tail_of(words, used)
    assert tail is not None
    size = word.itemsize * 8
    assert [int(t) % (1 << size) for t in tail] == [0b11111 << (size - 5)] * 3
    assert tail_of(words, 2 * size) is None


def test_interleaves_undo_each_other() -> None:
    plain = codes(64, 128, 4)
    assert torch.equal(deinterleave(interleave(plain)), plain)
    assert interleave(torch.arange(8, dtype=torch.uint8)[:, None]).flatten().tolist() == [
        0, 2, 4, 6, 1, 3, 5, 7,
    ]  # fmt: skip
    fast = rows_to_fast(plain)
    assert fast.dtype == torch.int16
    assert fast.shape == (16, 128)
    assert torch.equal(rows_from_fast(fast), plain)


@pytest.mark.parametrize("groups", [1, 3])
def test_tiles_undo_each_other(groups: int) -> None:
    plain = codes(128, 96, 4)
    words = rows_to_tiles(plain)
    assert words.shape == (6, 256)
    assert torch.equal(rows_from_tiles(words), plain)
    scales = torch.rand(groups, 128)
    assert torch.equal(scales_from_tiles(scales_to_tiles(scales)), scales)


def test_bytes_are_read_whatever_the_strides() -> None:
    words = torch.arange(12, dtype=torch.int32).view(3, 4)
    for view in (words.T, words[::2], words[:1, :1], words[:, 1:2].T):
        copied = view.clone(memory_format=torch.contiguous_format)
        assert torch.equal(recast(view, torch.uint8), copied.view(-1).view(torch.uint8))
