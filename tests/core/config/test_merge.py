"""The stored config and what a caller may override of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from stub_plugin import PLUGIN, StubConfig, StubQuantizer

import quantload
from quantload import AutoHfQuantizer, AutoQuantizationConfig
from quantload.errors import ConfigError, UnknownMethodError
from quantload.plugin import QuantizationConfig, option


@pytest.fixture(autouse=True)
def stub():
    with quantload.register("stub", PLUGIN):
        yield


def merged(stored: dict[str, Any], passed: object) -> QuantizationConfig:
    one = AutoQuantizationConfig.merge_quantization_configs(
        {"quant_method": "stub", **stored}, passed
    )
    other = AutoHfQuantizer.merge_quantization_configs({"quant_method": "stub", **stored}, passed)
    assert one == other
    return one


def test_nothing_passed_gives_the_stored_config():
    assert merged({"bits": 8}, None) == StubConfig(bits=8)


@pytest.mark.parametrize("kind", ["config", "dict", "foreign"])
def test_loading_fields_override(kind):
    class Foreign:
        def to_dict(self):
            return StubConfig(backend="fast").to_dict()

    passed = {
        "config": StubConfig(backend="fast"),
        "dict": {"quant_method": "stub", "backend": "fast"},
        "foreign": Foreign(),
    }[kind]
    config = merged({"bits": 8, "group_size": 32, "unknown": 1}, passed)
    assert config.to_diff_dict() == {
        "quant_method": "stub",
        "bits": 8,
        "group_size": 32,
        "unknown": 1,
        "backend": "fast",
    }


def test_a_compute_dtype_overrides_as_a_dtype():
    config = merged({"compute_dtype": "float16"}, StubConfig(compute_dtype=torch.bfloat16))
    assert config.compute_dtype is torch.bfloat16


def test_a_loading_field_written_out_overrides_even_with_the_default():
    assert merged({"backend": "fast"}, StubConfig(backend="auto")).backend == "auto"
    assert (
        merged({"backend": "fast"}, {"quant_method": "stub", "backend": "auto"}).backend == "auto"
    )


def test_a_default_that_nobody_wrote_does_not_override():
    class Foreign:
        def to_dict(self):
            return StubConfig().to_dict()

    for passed in (StubConfig(), {"quant_method": "stub"}, Foreign()):
        assert merged({"backend": "fast"}, passed).backend == "fast"


def test_inert_fields_never_conflict_and_never_override():
    assert merged({"damp_percent": 0.01}, StubConfig(damp_percent=0.9)).damp_percent == 0.01


def test_a_passed_default_never_conflicts():
    assert merged({"bits": 8}, StubConfig(bits=4)).bits == 8


def test_an_equal_value_does_not_conflict():
    assert merged({"bits": 8}, StubConfig(bits=8)).bits == 8


@pytest.mark.parametrize(
    ("stored", "passed", "both"),
    [
        ({"bits": 8}, {"bits": 2}, ("8", "2")),
        ({}, {"bits": 8}, ("4", "8")),
        ({"group_size": 64}, {"group_size": 32}, ("64", "32")),
        ({"modules": ["a"]}, {"modules": ["b"]}, ("['a']", "['b']")),
    ],
)
def test_a_contradiction_about_the_bytes_names_both_values(stored, passed, both):
    with pytest.raises(ConfigError) as caught:
        merged(stored, {"quant_method": "stub", **passed})
    (field,) = passed
    assert caught.value.field == field
    assert f"checkpoint says {both[0]}" in str(caught.value)
    assert f"passed says {both[1]}" in str(caught.value)


def test_another_method_is_refused_and_both_are_named():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other(QuantizationConfig):
        quant_method = "other"

    with (
        quantload.register("other", config=Other, quantizer=StubQuantizer),
        pytest.raises(ConfigError, match=r"'stub'.*'other'") as caught,
    ):
        merged({}, Other())
    assert caught.value.field == "quant_method"


def test_an_unknown_method_stays_unknown():
    with pytest.raises(UnknownMethodError):
        merged({}, {"quant_method": "nobodys"})


def test_a_field_without_default_takes_part():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Strict(QuantizationConfig):
        quant_method = "strict"
        bits: int = option()

    merge = AutoQuantizationConfig.merge_quantization_configs
    with quantload.register("strict", config=Strict, quantizer=StubQuantizer):
        assert merge(Strict(bits=4), Strict(bits=4)).bits == 4
        with pytest.raises(ConfigError, match=r"(?s)bits.*4.*8"):
            merge(Strict(bits=4), Strict(bits=8))


def test_a_third_party_class_declares_what_may_be_overridden():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(QuantizationConfig):
        quant_method = "own"
        codebook: int = 1
        speed: int = 0
        samples: int = 128

        @classmethod
        def loading_fields(cls):
            return super().loading_fields() | {"speed"}

        @classmethod
        def inert_fields(cls):
            return super().inert_fields() | {"samples"}

    merge = AutoQuantizationConfig.merge_quantization_configs
    with quantload.register("own", config=Own, quantizer=StubQuantizer):
        config = merge({"quant_method": "own", "codebook": 3}, Own(speed=2, samples=5))
        assert config == Own(codebook=3, speed=2)
        with pytest.raises(ConfigError, match="codebook"):
            merge({"quant_method": "own", "codebook": 3}, Own(codebook=2))


def test_a_field_that_is_not_written_takes_part():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Terse(QuantizationConfig):
        quant_method = "terse"
        block: int = 64

        def to_dict(self):
            return {k: v for k, v in super().to_dict().items() if k != "block" or v != 64}

    merge = AutoQuantizationConfig.merge_quantization_configs
    with quantload.register("terse", config=Terse, quantizer=StubQuantizer):
        assert merge({"quant_method": "terse", "block": 32}, Terse()).block == 32
        with pytest.raises(ConfigError, match=r"block.*64.*128"):
            merge({"quant_method": "terse"}, Terse(block=128))


def test_what_is_overridden_is_validated_together_with_what_is_stored():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(QuantizationConfig):
        quant_method = "own"
        bits: int = 4
        kernel: str = option("any", loading=True)

        def check(self):
            if self.kernel == "four" and self.bits != 4:
                raise ConfigError("kernel 'four' is for 4 bits", field="kernel", value="four")

    with (
        quantload.register("own", config=Own, quantizer=StubQuantizer),
        pytest.raises(ConfigError, match="for 4 bits"),
    ):
        AutoQuantizationConfig.merge_quantization_configs(Own(bits=8), Own(kernel="four"))
