from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import BITS, make_weight

from quantload_kernels_triton import words
from quantload_kernels_triton.arrange import arrange, geometry_of, restore
from quantload_kernels_triton.geometry import Geometry


def arranged_and_restored(weight):
    """What `restore` gives; the weight is left as `arrange` made it."""
    weight._replace_storage(arrange(weight))
    return {name: tensor for name, tensor in restore(weight).items() if tensor is not None}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"act_order": "even"},
        {"act_order": "uneven"},
        {"symmetric": True},
        {"symmetric": True, "stored_zeros": False},
        {"scale_dtype": torch.float32},
    ],
    ids=str,
)
def test_canonical_storage_comes_back_exactly(bits, options):
    weight = make_weight(bits, 40, 480, 96, **options)
    before = {name: tensor.clone() for name, tensor in weight.storage().items()}
    after = arranged_and_restored(weight)
    assert set(after) == set(before)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype, name
        assert torch.equal(after[name], tensor), name


@given(st.sampled_from(BITS), st.integers(1, 50), st.integers(1, 20), st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_any_codes_survive_packing(bits, rows, runs, seed):
    geometry = Geometry(bits, rows, 32 * runs)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << bits, (rows, 32 * runs), generator=generator, dtype=torch.uint8)
    packed = words.pack(codes, geometry)
    assert packed.shape == geometry.words_shape
    assert torch.equal(words.unpack(packed, geometry)[:rows], codes)


def test_the_tensors_of_the_checkpoint_are_carried_along():
    weight = make_weight(4, 32, 128, 64)
    weight.store("kept_padding", torch.arange(7))
    after = arranged_and_restored(weight)
    assert torch.equal(after["kept_padding"], torch.arange(7))


def test_symmetric_zero_points_take_no_room():
    weight = make_weight(4, 32, 256, 64, symmetric=True)
    assert arrange(weight)["zeros"].numel() == 0


def test_four_bits_take_half_a_byte_a_weight():
    weight = make_weight(4, 64, 1024, 128)
    assert arrange(weight)["words"].nbytes == 64 * 1024 // 2


def test_a_lane_reads_the_words_of_its_place_in_the_operand():
    """Lane 4 g + t: rows g and g + 8, columns 2t, 2t + 1, 2t + 8, 2t + 9 of 16, a nibble each."""
    weight = make_weight(4, 16, 64, 64)
    codes = weight.plain_codes().long()
    block = arrange(weight)["words"].view(32, 8)
    for lane in (0, 5, 31):
        g, t = divmod(lane, 4)
        place = 0
        for k8 in (0, 8):
            for row in (g, g + 8):
                for column in (2 * t + k8, 2 * t + k8 + 1):
                    nibbles = [int(codes[row, column + 16 * plane]) for plane in range(4)]
                    word = sum(nibble << (4 * plane) for plane, nibble in enumerate(nibbles))
                    assert int(block[lane, place]) & 0xFFFF == word
                    place += 1


def test_long_weights_are_converted_in_runs_of_tiles(monkeypatch):
    weight = make_weight(3, 100, 512, 128, act_order="even")
    whole = arrange(weight)["words"]
    monkeypatch.setattr(words, "_TILES_AT_ONCE", 512 * 32)
    assert len(list(words.tile_runs(geometry_of(weight)))) == 4
    assert torch.equal(arrange(weight)["words"], whole)
    codes = weight.codes.clone()
    assert torch.equal(arranged_and_restored(weight)["codes"], codes)
