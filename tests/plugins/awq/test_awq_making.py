"""Rounding to nearest on load, and activations with scales."""

from __future__ import annotations

import pytest
import torch
from cases import cases
from torch import nn

from quantload import AutoHfQuantizer, CheckpointError, ConfigError
from quantload.plugin import ModuleSpec
from quantload.quantizers.spec import Header
from quantload_awq import AwqQuantizer, ScaledActivation


def quantizer(**config: object) -> AwqQuantizer:
    raw = {"quant_method": "awq", "group_size": 32, **config}
    made = AutoHfQuantizer.from_config(raw, pre_quantized=False)
    assert isinstance(made, AwqQuantizer)
    return made


@pytest.mark.parametrize("zero_point", [True, False])
@pytest.mark.parametrize("version", ["gemm", "gemv", "gemv_fast", "llm-awq"])
def test_what_was_made_is_what_is_read(version: str, zero_point: bool) -> None:
    made = quantizer(version=version, zero_point=zero_point, group_size=64)
    weight = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
    packed = made.quantize(ModuleSpec("layer", shape=(32, 128)), weight)
    again = AutoHfQuantizer.from_config(made.quantization_config).pack(
        "layer", made.unpack("layer", packed)
    )
    found = packed.dequantize(torch.float32)
    assert torch.equal(again.dequantize(torch.float32), found)
    assert (found - weight).norm() / weight.norm() < 0.12
    if not zero_point and version == "gemm":
        assert (made.unpack("layer", packed)["qzeros"] == -0x77777778).all()


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7, 8])
def test_every_width_of_gemm(bits: int) -> None:
    made = quantizer(bits=bits)
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(bits))
    packed = made.quantize(ModuleSpec("layer", shape=(40, 64)), weight)
    error = (packed.dequantize(torch.float32) - weight).norm() / weight.norm()
    assert error < 2 / 2**bits


def test_layers_that_do_not_fit_stay_float_and_are_written_down() -> None:
    made = quantizer(modules_to_not_convert=["skip"])
    model = nn.ModuleDict(
        {
            "a": nn.Linear(64, 64),
            "b": nn.Linear(64, 12),
            "c": nn.Linear(40, 64),
            "skip": nn.Linear(64, 64),
        }
    )
    assert list(made.targets(model)) == ["a"]
    assert made.quantization_config.modules_to_not_convert == ["skip", "b", "c"]
    assert list(made.targets(model)) == ["a"]
    assert made.quantization_config.modules_to_not_convert == ["skip", "b", "c"]


def test_activations_with_scales_are_claimed_as_wrappers() -> None:
    headers = {
        "h.0.mlp.act.scales": Header("F16", (128,), 256),
        "h.0.ln.weight": Header("F16", (128,), 256),
    }
    found = quantizer().claims(headers)
    assert list(found) == ["h.0.mlp.act"]
    assert found["h.0.mlp.act"].kind == "wrapper"
    wrapped = quantizer().wrap(found["h.0.mlp.act"], nn.GELU())
    assert isinstance(wrapped, ScaledActivation)
    assert wrapped.scales.is_meta
    assert wrapped.scales.shape == (128,)


def test_a_scaled_activation_divides_in_the_dtype_of_its_input() -> None:
    scales = torch.rand(8, generator=torch.Generator().manual_seed(0)) + 0.5
    act = ScaledActivation(nn.ReLU(), scales.half())
    x = torch.randn(2, 8, dtype=torch.bfloat16)
    y = act(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, torch.relu(x) / scales.half().bfloat16())


def test_scales_of_an_activation_that_are_no_floats_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"mlp\.act\.scales: dtype I32"):
        quantizer().claims({"mlp.act.scales": Header("I32", (4,), 16)})


@pytest.mark.parametrize("config", [{"bits": 8}, {"bits": 4, "zero_point": True}])
def test_marlin_is_not_made_with_what_it_does_not_have(config: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="4 bits and no zero-points"):
        quantizer(version="marlin", **config)


def test_overrides_count_where_layers_are_made() -> None:
    dynamic = {"-:b": {}, "a": {"bits": 8, "group_size": 64, "sym": True}}
    made = quantizer(dynamic=dynamic)
    model = nn.ModuleDict({name: nn.Linear(64, 64) for name in "abc"})
    found = made.targets(model)
    assert list(found) == ["a", "c"]
    weights = {name: made.quantize(found[name], model[name].weight) for name in found}
    assert {n: (w.bits, w.group_size, w.symmetric) for n, w in weights.items()} == {
        "a": (8, 64, True),
        "c": (4, 32, False),
    }
    reader = AutoHfQuantizer.from_config(made.quantization_config)
    for name, weight in weights.items():
        again = reader.pack(name, made.unpack(name, weight))
        assert torch.equal(again.dequantize(torch.float32), weight.dequantize(torch.float32))


def test_the_config_of_packed_layers_stays_as_it_is() -> None:
    case = cases("awq")["awq_gemm_4bit"]
    reader = AutoHfQuantizer.from_config(case.config)
    before = reader.quantization_config
    reader.pack("a", case.tensors)
    reader.targets(nn.ModuleDict({"a": nn.Linear(64, 32), "b": nn.Linear(44, 36)}))
    assert reader.quantization_config == before
