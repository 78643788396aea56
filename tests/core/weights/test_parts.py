from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import quantload
from quantload.errors import CheckpointError, QuantloadError, UnsupportedOperationError
from quantload.plugin import (
    ModuleSpec,
    PartsQuantizer,
    PartsWeight,
    QuantizationConfig,
    option,
    part,
    setting,
)
from quantload.testing import MethodSuite, QuantizerSuite, WeightSuite


@dataclass(frozen=True, kw_only=True)
class NibbleConfig(QuantizationConfig):
    quant_method = "nibbles"

    bits: int = option(4, choices=(2, 4, 8))
    group_size: int = option(16, minimum=1)
    modules_to_not_convert: list[str] | None = None


class NibbleWeight(PartsWeight):
    """Codes packed along a row, and a scale per group; rows are stored last."""

    layout = "nibbles"
    bits: int = setting()
    group_size: int = setting()
    packed: Tensor = part("uint8", "in*bits/8", "out")
    scale: Tensor = part(("float32", "float16"), "out", "in/group_size")

    def decode(self, dtype):
        shifts = torch.arange(0, 8, self.bits, device=self.packed.device)
        codes = (self.packed.T[..., None] >> shifts) & ((1 << self.bits) - 1)
        rows = self.packed.shape[1]
        groups = codes.reshape(rows, -1, self.group_size).float() - (1 << (self.bits - 1))
        return (groups * self.scale.float()[..., None]).reshape(rows, -1).to(dtype)


class NibbleQuantizer(PartsQuantizer):
    weight_class = NibbleWeight

    def encode(self, weight):
        config = self.quantization_config
        half = 1 << (config.bits - 1)
        groups = weight.view(weight.shape[0], -1, config.group_size)
        scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-12) / half
        codes = ((groups / scale).round() + half).clamp(0, 2 * half - 1).to(torch.uint8)
        fields = codes.view(weight.shape[0], -1, 8 // config.bits)
        shifts = torch.arange(0, 8, config.bits, dtype=torch.uint8)
        packed = (fields << shifts).sum(-1, dtype=torch.uint8)
        return {"packed": packed.T.contiguous(), "scale": scale.squeeze(-1)}


@pytest.fixture(autouse=True, scope="module")
def nibbles():
    with quantload.register("nibbles", config=NibbleConfig, quantizer=NibbleQuantizer):
        yield


class Nibbles(MethodSuite):
    method = "nibbles"
    configs: ClassVar = {"4": {}, "2": {"bits": 2, "group_size": 8}}
    shapes = ((64, 128), (24, 64))
    shard_dims = (0, 1)
    max_relative_error = 0.6


class TestQuantizer(Nibbles, QuantizerSuite):
    # a method that is registered in code has no summary and no distribution
    test_the_method_is_found_where_it_should_be = None


class TestWeight(Nibbles, WeightSuite):
    dtypes = (torch.bfloat16,)
    compileable = False  # takes ten seconds; the example's are compiled


def quantizer(**settings):
    made = quantload.AutoHfQuantizer.from_config({"quant_method": "nibbles", **settings})
    return made


def test_layers_that_do_not_divide_stay_float_and_are_refused(caplog):
    model = nn.Sequential(nn.Linear(64, 4), nn.Linear(24, 4), nn.Linear(32, 4))
    found = quantizer(modules_to_not_convert=["2"])
    found.pre_quantized = False
    assert list(found.targets(model)) == ["0"]
    assert "1 stays float" in caplog.text
    with pytest.raises(UnsupportedOperationError, match="4x24 does not divide into in/group_size"):
        found.quantize(ModuleSpec("1"), torch.randn(4, 24))


def test_a_split_through_a_group_is_refused():
    weight = quantizer(group_size=32).quantize(ModuleSpec("x"), torch.randn(4, 96))
    with pytest.raises(UnsupportedOperationError, match="does not divide into in/group_size"):
        weight.shard(1, 0, 2)
    assert weight.shard(1, 1, 3).shape == (4, 32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("scale"), "x.scale is missing; a nibbles layer has packed, scale"),
        (lambda t: t.update(scale=t["scale"].double()), "found F64.*expected float32 or float16"),
        (lambda t: t.update(scale=t["scale"][:, :1]), r"shape \[4, 1\], expected \[4, 4\]"),
        (lambda t: t.update(packed=t["packed"][:-1]), "does not divide"),
        (lambda t: t["scale"].fill_(float("inf")), "NaN or infinite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, said):
    found = quantizer()
    tensors = found.unpack("x", found.quantize(ModuleSpec("x"), torch.randn(4, 64)))
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    with pytest.raises(CheckpointError, match=said):
        found.pack("x", tensors)


def test_an_encode_that_gives_something_else_is_told_what():
    class Wrong(NibbleQuantizer):
        def encode(self, weight):
            return {**super().encode(weight), "scale": weight[:, :1]}

    with pytest.raises(QuantloadError, match=r"Wrong.encode: scale should be torch.float32 \[4, 4"):
        Wrong(NibbleConfig()).quantize(ModuleSpec("x"), torch.randn(4, 64))


def test_a_method_without_encode_cannot_quantize():
    class Reader(PartsQuantizer):
        weight_class = NibbleWeight

    reader = Reader(NibbleConfig())
    assert not reader.can_quantize()
    with pytest.raises(UnsupportedOperationError, match="cannot quantize"):
        reader.quantize(ModuleSpec("x"), torch.randn(4, 64))


def test_a_packed_weight_may_have_the_name_of_a_float_one():
    class Plain(PartsWeight):
        layout = "plain8"
        weight: Tensor = part("int8", "out", "in")

        def decode(self, dtype):
            return self.weight.to(dtype)

    class Quantizer(PartsQuantizer):
        weight_class = Plain

    found = Quantizer(NibbleConfig())
    tensors = {"weight": torch.ones(2, 3, dtype=torch.int8)}
    assert torch.equal(found.pack("x", tensors).dequantize(torch.float32), torch.ones(2, 3))
    with pytest.raises(CheckpointError, match="not those of a nibbles layer"):
        found.pack("x", {"weight": torch.ones(2, 3)})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda: {"codes": part("int99", "out", "in")}, "no dtype 'int99'"),
        (lambda: {"codes": part("int8", "rows")}, "a dimension of a part"),
        (lambda: {"codes": part("int8", "in", "in")}, "each axis at most once"),
        (lambda: {"codes": part("int8", 0, "in")}, "a dimension of a part"),
        (lambda: {"codes": part("int8", "out", "in/group")}, "shapes name group"),
    ],
)
def test_a_declaration_that_makes_no_sense_fails_where_it_is_written(body, said):
    with pytest.raises(TypeError, match=said):
        type("Weight", (PartsWeight,), body())
