"""Rounding to nearest on load: which layers, which numbers, which config."""

from __future__ import annotations

import logging

import pytest
import torch
from cases import cases
from torch import nn

from quantload import AutoHfQuantizer, CheckpointError, ConfigError
from quantload.plugin import ModuleSpec
from quantload.weights.affine import rtn
from quantload_gptq import GPTQConfig, GPTQQuantizer


def quantizer(**config: object) -> GPTQQuantizer:
    raw = {"quant_method": "gptq", "bits": 4, "group_size": 32, **config}
    made = AutoHfQuantizer.from_config(raw, pre_quantized=False)
    assert isinstance(made, GPTQQuantizer)
    return made


def rounded(weight: torch.Tensor, **config: object) -> torch.Tensor:
    made = quantizer(**config)
    spec = ModuleSpec("layer", shape=tuple(weight.shape), dtype=torch.float32)
    packed = made.quantize(spec, weight)
    again = AutoHfQuantizer.from_config(made.quantization_config).pack(
        "layer", made.unpack("layer", packed)
    )
    assert torch.equal(again.dequantize(torch.float32), packed.dequantize(torch.float32))
    return packed.dequantize(torch.float32)


@pytest.mark.parametrize("bits", range(5, 9))
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
def test_weights_are_off_by_no_more_than_the_step_allows(bits: int, sym: bool, layout: str) -> None:
    weight = torch.randn(32, 96, generator=torch.Generator().manual_seed(bits))
    found = rounded(weight, bits=bits, sym=sym, group_size=32, checkpoint_format=layout)
    groups = weight.view(32, 3, 32)
    reach = groups.abs().amax(-1) * 2 if sym else groups.amax(-1) - groups.amin(-1)
    step = (reach / (2**bits - 1))[..., None]
    error = (found - weight).view(32, 3, 32).abs()
    # zero-points are rounded, too, which may cut half a step off at an end; and scales are float16
    bound = (0.5 if sym else 1.0) + 2**bits * torch.finfo(torch.float16).eps
    assert (error <= step * bound).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("sym", [True, False])
def test_few_bits_are_spent_where_the_weights_are(
    bits: int, sym: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(bits))

    def errors() -> torch.Tensor:
        found = rounded(weight, bits=bits, sym=sym, group_size=128, checkpoint_format="gptq_v2")
        return (found - weight).view(32, 2, 128).square().sum(-1)

    searched = errors()
    monkeypatch.setattr(rtn, "SHRUNK", ())
    plain = errors()
    assert (searched <= plain).all()
    assert searched.sum() < 0.97 * plain.sum()


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
def test_groups_of_one_sign_and_of_zeros(layout: str) -> None:
    weight = torch.rand(32, 96) + 0.5
    weight[:, 32:64] *= -1
    weight[:, 64:] = 0
    found = rounded(weight, sym=False, checkpoint_format=layout)
    assert not found[:, 64:].any()
    assert (found - weight).abs().max() < 1.5 / 14


def test_version_1_never_gets_a_zero_point_of_0() -> None:
    made = quantizer(sym=False, checkpoint_format="gptq")
    spec = ModuleSpec("layer", shape=(32, 32), dtype=torch.float32)
    packed = made.quantize(spec, torch.rand(32, 32))
    assert int(packed.zero_points().min()) == 1
    assert set(made.unpack("layer", packed)) == {"qweight", "qzeros", "scales", "g_idx"}


def test_tiny_and_huge_weights_have_finite_scales() -> None:
    for factor in (1e-7, 1e4):
        weight = torch.randn(32, 32) * factor
        found = rounded(weight, bits=8, sym=True)
        assert torch.isfinite(found).all()
        assert ((found - weight).norm() / weight.norm()) < 0.05 or factor < 1e-5


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(value: float) -> None:
    weight = torch.ones(32, 32)
    weight[3, 3] = value
    with pytest.raises(CheckpointError, match=r"model\.x\.weight.*NaN or infinite"):
        quantizer().quantize(ModuleSpec("model.x", shape=(32, 32)), weight)


def test_dynamic_applies_while_making() -> None:
    made = quantizer(dynamic={"a": {"bits": 8, "group_size": -1}})
    spec = ModuleSpec("a.x", shape=(32, 64), dtype=torch.float32)
    weight = made.quantize(spec, torch.randn(32, 64))
    assert (weight.bits, weight.group_size) == (8, 64)
    assert made.empty(spec).nbytes == weight.nbytes


def test_desc_act_is_not_done_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "quantload.gptq"):
        made = quantizer(desc_act=True)
    assert "desc_act=false is written" in caplog.text
    assert made.quantization_config.desc_act is False


def test_the_maker_is_written() -> None:
    config = quantizer().quantization_config
    assert config.meta is not None
    assert config.meta["quantizer"][0].startswith("quantload:")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(64, 64, bias=False)
        self.k = nn.Linear(64, 40, bias=False)
        self.up = nn.Linear(64, 128)


class Model(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(96, 64)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.lm_head = nn.Linear(64, 96, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


def test_layers_that_do_not_fit_stay_float_and_are_written_down() -> None:
    made = quantizer()
    targets = made.targets(Model())
    assert sorted(targets) == ["blocks.0.q", "blocks.0.up", "blocks.1.q", "blocks.1.up"]
    dynamic = made.quantization_config.dynamic
    assert dynamic == {r"-:^blocks\.0\.k$": {}, r"-:^blocks\.1\.k$": {}}
    assert made.targets(Model()).keys() == targets.keys()
    assert made.quantization_config.dynamic == dynamic


def test_the_head_is_quantized_where_asked_and_not_tied(caplog: pytest.LogCaptureFixture) -> None:
    assert "lm_head" not in quantizer().targets(Model())
    assert "lm_head" in quantizer(lm_head=True).targets(Model())
    with caplog.at_level(logging.WARNING, "quantload.gptq"):
        assert "lm_head" not in quantizer(lm_head=True).targets(Model(tied=True))
    assert "tied" in caplog.text


def test_lists_of_layers_and_skips_are_followed() -> None:
    listed = quantizer(modules_in_block_to_quantize=[["q"], ["k"]]).targets(Model())
    assert sorted(listed) == ["blocks.0.q", "blocks.1.q"]
    assert sorted(quantizer(block_name_to_quantize="blocks.1").targets(Model())) == [
        "blocks.1.q",
        "blocks.1.up",
    ]
    assert sorted(quantizer(dynamic={"-:.*up": {}}).targets(Model())) == [
        "blocks.0.q",
        "blocks.1.q",
    ]


def test_marlin_takes_only_what_its_kernel_runs() -> None:
    made = quantizer(checkpoint_format="marlin", group_size=128)
    model = nn.ModuleDict(
        {"a": nn.Linear(128, 256), "b": nn.Linear(128, 128), "c": nn.Linear(8, 8)}
    )
    assert list(made.targets(model)) == ["a"]


def test_a_config_class_makes_the_same_quantizer() -> None:
    made = AutoHfQuantizer.from_config(GPTQConfig(bits=4, group_size=32), pre_quantized=False)
    assert made.quantization_config == quantizer().quantization_config


@pytest.mark.parametrize(
    ("config", "written"),
    [
        ({"sym": True}, "gptq"),
        ({"sym": False}, "gptq_v2"),
        ({"sym": False, "checkpoint_format": "gptq"}, "gptq"),
        ({"sym": False, "checkpoint_format": "gptq_p"}, "gptq_p"),
        ({"bits": 6}, "gptq_p"),
        ({"dynamic": {"a": {"bits": 5}}}, "gptq_p"),
        ({"dynamic": {"a": {"bits": 8}, "-:b": None}}, "gptq"),
    ],
)
def test_the_layout_that_is_written_is_one_that_other_readers_take(
    config: dict[str, object], written: str
) -> None:
    """GPTQModel reads asymmetric version-1 files of its own only, and takes any config with a
    planar width, if only of one module, for one of the planar layout."""
    model = nn.ModuleDict({"a": nn.Linear(64, 64)})
    made = quantizer(**config)
    made.targets(model)
    assert made.quantization_config.checkpoint_format == written
    again = AutoHfQuantizer.from_config(made.quantization_config, pre_quantized=False)
    again.targets(model)
    assert again.quantization_config.checkpoint_format == written


def test_the_config_of_packed_layers_stays_as_it_is() -> None:
    """A layer of odd sides that another writer packed is no layer that was left out."""
    case = cases("gptq")["gptq_v2_4bit_padded"]
    reader = AutoHfQuantizer.from_config(case.config)
    before = reader.quantization_config
    reader.pack("a", case.tensors)
    reader.targets(nn.ModuleDict({"a": nn.Linear(44, 36), "b": nn.Linear(44, 36)}))
    assert reader.quantization_config == before


@pytest.mark.parametrize("config", [{"bits": 3}, {"bits": 4, "sym": False}])
def test_marlin_is_not_made_with_what_it_does_not_have(config: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="4 bits and no zero-points"):
        quantizer(checkpoint_format="marlin", **config)
