"""Layers that `hqq` itself wrote (scripts/make_originals.py): its numbers, and its bytes again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from quantload import AutoHfQuantizer, CheckpointError
from quantload.plugin import AffineWeight, WeightQuantizer

FILE = Path(__file__).parent / "originals" / "layers.safetensors"


def layers() -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(FILE).items():
        layer, _, leaf = name.rpartition(".")
        found.setdefault(layer, {})[leaf] = tensor
    return found


LAYERS = layers()


def raw(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def quantizer() -> WeightQuantizer:
    made = AutoHfQuantizer.from_config({"quant_method": "hqq"})
    assert isinstance(made, WeightQuantizer)
    return made


def test_there_is_a_layer_of_every_width_and_axis() -> None:
    assert {name.split("bit")[0] for name in LAYERS} == {"8", "6", "5", "4", "3", "2", "1_58", "1"}
    assert {name.split("-")[1] for name in LAYERS} == {"axis0", "axis1"}


@pytest.mark.parametrize("name", LAYERS)
def test_the_numbers_are_those_that_hqq_reads(name: str) -> None:
    tensors = dict(LAYERS[name])
    expected = tensors.pop("expected")
    weight = quantizer().pack("layer", tensors)
    found = weight.dequantize(torch.float32)
    # (q - zero) * scale is here q * scale - zero * scale: float32, in another order
    room = 2e-6 * expected.abs().max() + 1e-6 * (tensors["zero"] * tensors["scale"]).abs().max()
    assert (found - expected).abs().max() <= room


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_written_are_the_bytes_that_hqq_wrote(name: str) -> None:
    tensors = {key: value for key, value in LAYERS[name].items() if key != "expected"}
    made = quantizer().unpack("layer", quantizer().pack("layer", tensors))
    assert set(made) == set(tensors)
    for key, tensor in tensors.items():
        assert made[key].dtype == tensor.dtype, key
        assert made[key].shape == tensor.shape, key
        assert torch.equal(raw(made[key]), raw(tensor)), key


@pytest.mark.parametrize(
    "name", [n for n in LAYERS if n.startswith(("4bit-axis1-8", "3bit-axis1-32"))]
)
def test_groups_within_rows_share_the_layout_and_the_kernels_of_other_methods(name: str) -> None:
    tensors = {key: value for key, value in LAYERS[name].items() if key != "expected"}
    weight = quantizer().pack("layer", tensors)
    assert isinstance(weight, AffineWeight)
    assert weight.layout == "affine"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quant_scale": torch.tensor(1, dtype=torch.uint8)}, "quantized scales"),
        ({"channel_wise": torch.tensor(0, dtype=torch.uint8)}, "channel_wise"),
        ({"nbits": torch.tensor(3, dtype=torch.int32)}, "packing: found '4bit_u8'"),
        ({"group_size": torch.tensor(16, dtype=torch.int32)}, "for 64 groups"),
        ({"shape": torch.tensor([64, 32])}, "for 64 groups"),
    ],
)
def test_settings_that_contradict_the_tensors_are_refused(
    change: dict[str, Tensor], said: str
) -> None:
    tensors = {k: v for k, v in LAYERS["4bit-axis1-32-float16"].items() if k != "expected"}
    with pytest.raises(CheckpointError, match=said):
        quantizer().pack("layer", {**tensors, **change})
