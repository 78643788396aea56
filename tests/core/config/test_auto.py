"""From a dict, an object or a folder to a typed config and its quantizer."""

from __future__ import annotations

import enum
import json

import pytest
from stub_plugin import PLUGIN, StubConfig, StubQuantizer, plugin_source

import quantload
from quantload import AutoHfQuantizer, AutoQuantizationConfig
from quantload.errors import (
    CheckpointError,
    ConfigError,
    PluginConflictError,
    PluginLoadError,
    UnknownMethodError,
)
from quantload.plugin import API, QuantizerPlugin
from quantload.registry.records import CONFIG_FILES, CONFIG_KEYS
from quantload.testing import fake_distribution

STORED = {"quant_method": "stub", "bits": 8}


@pytest.fixture
def stub():
    with quantload.register("stub", PLUGIN):
        yield


@pytest.fixture
def keyed():
    """The same with a distribution that owns a key and a file."""
    with fake_distribution(
        "dist-a",
        quantizers={"stub": "toy_a.plugin:PLUGIN", "stub_8bit": "toy_a.plugin:PLUGIN"},
        modules={"toy_a.plugin": plugin_source()},
        config_keys={"stub_in_8bit": "stub"},
        config_files={"stub_config.json": "stub"},
    ):
        yield


class Method(str, enum.Enum):
    STUB = "stub"


class Foreign:
    """Like the config classes of `transformers`: everything it has, and enums in it."""

    def __init__(self, **fields):
        self.fields = fields

    def to_dict(self):
        return {"quant_method": Method.STUB, "bits": 4, "group_size": 128, **self.fields}


@pytest.mark.parametrize(
    "config",
    [
        STORED,
        {"quant_method": Method.STUB, "bits": 8},
        StubConfig(bits=8),
        Foreign(bits=8),
    ],
    ids=["dict", "enum", "config", "foreign"],
)
def test_every_kind_of_description_gives_the_same(stub, config):
    assert AutoQuantizationConfig.from_dict(config) == StubConfig(bits=8)
    quantizer = AutoHfQuantizer.from_config(config)
    assert isinstance(quantizer, StubQuantizer)
    assert quantizer.quantization_config == StubConfig(bits=8)
    assert quantizer.quant_method == "stub"
    assert quantizer.is_available()


def test_a_config_object_is_taken_as_it_is(stub):
    config = StubConfig(bits=8)
    assert AutoQuantizationConfig.from_dict(config) is config


def test_a_config_of_another_provider_is_made_anew_for_the_one_that_serves(stub):
    import dataclasses

    from quantload.config import QuantizationConfig

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Elsewhere(QuantizationConfig):
        quant_method = "stub"
        bits: int = 8

    assert AutoQuantizationConfig.from_dict(Elsewhere()) == StubConfig(bits=8)


def test_keywords_reach_the_constructor(stub):
    quantizer = AutoHfQuantizer.from_config(
        STORED, pre_quantized=False, modules_to_not_convert=["lm_head"], own=3
    )
    assert quantizer.pre_quantized is False
    assert quantizer.modules_to_not_convert == ["lm_head"]
    assert quantizer.options == {"own": 3}


def test_provider_is_honoured_from_either_class():
    one = fake_distribution(
        "dist-a",
        quantizers={"stub": "toy_a.plugin:PLUGIN"},
        modules={"toy_a.plugin": plugin_source("a")},
    )
    two = fake_distribution(
        "dist-b",
        quantizers={"stub": "toy_b.plugin:PLUGIN"},
        modules={"toy_b.plugin": plugin_source("b")},
    )
    with one, two:
        with pytest.raises(PluginConflictError):
            AutoHfQuantizer.from_config(STORED)
        quantizer = AutoHfQuantizer.from_config(STORED, provider="dist-b")
        assert quantizer.plugin.summary == "b"
        assert AutoQuantizationConfig.from_dict(STORED, provider="dist-a").bits == 8


def test_a_config_without_a_method_belongs_to_the_owner_of_its_keys(keyed):
    assert AutoHfQuantizer.from_config({"stub_in_8bit": True}).quant_method == "stub"
    for nothing in (False, None):
        with pytest.raises(UnknownMethodError, match="no quant_method"):
            AutoHfQuantizer.from_config({"stub_in_8bit": nothing})


def test_an_alias_is_the_same_method(keyed):
    quantizer = AutoHfQuantizer.from_config({"quant_method": "stub_8bit"})
    assert quantizer.quant_method == "stub"


def test_keys_of_two_methods_are_a_conflict(keyed):
    with (
        fake_distribution("dist-b", config_keys={"other_key": "other"}),
        pytest.raises(PluginConflictError, match=r"other, stub.*add quant_method"),
    ):
        AutoHfQuantizer.from_config({"stub_in_8bit": True, "other_key": 1})


def test_keys_of_an_absent_plugin_say_what_to_install(monkeypatch):
    monkeypatch.setattr(
        "quantload.registry.known.known", lambda: {CONFIG_KEYS: {"far_bits": "quantload-far"}}
    )
    with pytest.raises(UnknownMethodError, match="pip install quantload-far"):
        AutoHfQuantizer.from_config({"far_bits": 4})


def test_keys_of_a_disabled_plugin_say_so(keyed, monkeypatch):
    monkeypatch.setenv("QUANTLOAD_DISABLE", "dist-a")
    with pytest.raises(UnknownMethodError, match="QUANTLOAD_DISABLE"):
        AutoHfQuantizer.from_config({"stub_in_8bit": True})


@pytest.mark.parametrize("config", [None, 3, "stub", ["stub"], StubConfig, object()])
def test_what_is_no_config_is_refused(stub, config):
    with pytest.raises(ConfigError, match="expected a quantization config"):
        AutoHfQuantizer.from_config(config)


def test_a_to_dict_that_fails_or_gives_no_dict_is_refused(stub):
    class Failing:
        def to_dict(self):
            raise RuntimeError("not today")

    class Odd:
        def to_dict(self):
            return [1]

    with pytest.raises(ConfigError, match="not today"):
        AutoHfQuantizer.from_config(Failing())
    with pytest.raises(ConfigError, match="expected a quantization config"):
        AutoHfQuantizer.from_config(Odd())


def test_the_config_of_a_whole_model_is_told_apart(stub):
    with pytest.raises(UnknownMethodError, match="config of a whole model"):
        AutoHfQuantizer.from_config({"model_type": "llama", "quantization_config": STORED})


@pytest.mark.parametrize("method", [3, ["stub"], {"stub": 1}])
def test_a_method_that_is_no_string_is_refused(method):
    with pytest.raises(ConfigError, match="expected a string"):
        AutoHfQuantizer.from_config({"quant_method": method})


def test_a_wrong_value_ends_in_a_config_error(stub):
    with pytest.raises(ConfigError, match=r"StubConfig\.bits: found 5"):
        AutoHfQuantizer.from_config({"quant_method": "stub", "bits": 5})


def test_a_constructor_that_makes_something_else_is_the_plugins_fault():
    class Odd(StubQuantizer):
        def __new__(cls, *args, **kwargs):
            return 3

    with (
        quantload.register("stub", QuantizerPlugin(API, StubConfig, Odd)),
        pytest.raises(PluginLoadError, match="HfQuantizer"),
    ):
        AutoHfQuantizer.from_config(STORED)


@pytest.mark.parametrize("auto", [AutoHfQuantizer, AutoQuantizationConfig])
def test_supports_quant_method_answers_with_a_reason(stub, auto):
    assert auto.supports_quant_method(STORED)
    assert auto.supports_quant_method({"quant_method": "STUB"})
    verdict = auto.supports_quant_method({"quant_method": "nobodys"})
    assert not verdict
    assert "nobodys" in verdict.reason
    assert not auto.supports_quant_method({})
    assert not auto.supports_quant_method(None)


# -- folders -----------------------------------------------------------------------


def folder_with(tmp_path, **files):
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name.replace("__", ".")).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": STORED},
        {"compression_config": STORED},
        {"text_config": {"quantization_config": STORED}},
        {"thinker_config": {"text_config": {"quantization_config": STORED}}},
        {"quantization_config": None, "llm_config": {"quantization_config": STORED}},
        {
            "quantization_config": STORED,
            "text_config": {"quantization_config": {"quant_method": "other"}},
        },
        {
            "text_config": {"quantization_config": STORED},
            "vision_config": {"quantization_config": STORED},
        },
    ],
)
def test_the_config_json_of_a_folder(stub, tmp_path, config):
    folder = folder_with(tmp_path, config__json={"model_type": "x", **config})
    assert AutoQuantizationConfig.from_pretrained(folder) == StubConfig(bits=8)
    assert AutoHfQuantizer.from_pretrained(str(folder)).quant_method == "stub"


def test_a_subfolder_and_keywords_of_the_quantizer(stub, tmp_path):
    (tmp_path / "sub").mkdir()
    folder_with(tmp_path / "sub", config__json={"quantization_config": STORED})
    quantizer = AutoHfQuantizer.from_pretrained(tmp_path, subfolder="sub", pre_quantized=False)
    assert quantizer.pre_quantized is False
    with pytest.raises(CheckpointError, match="no such folder"):
        AutoHfQuantizer.from_pretrained(tmp_path, subfolder="other")
    with pytest.raises(TypeError, match="revison"):
        AutoQuantizationConfig.from_pretrained(tmp_path, revison="main")


def test_parts_with_different_configs_are_refused(stub, tmp_path):
    parts = {
        "text_config": {"quantization_config": STORED},
        "vision_config": {"quantization_config": {**STORED, "bits": 4}},
    }
    folder = folder_with(tmp_path, config__json=parts)
    with pytest.raises(CheckpointError, match=r"text_config.*vision_config"):
        AutoQuantizationConfig.from_pretrained(folder)


def test_a_float_checkpoint_is_called_not_quantized(tmp_path):
    for content in ({}, {"model_type": "llama"}, {"quantization_config": {}}):
        folder = folder_with(tmp_path, config__json=content)
        with pytest.raises(CheckpointError, match="not quantized"):
            AutoQuantizationConfig.from_pretrained(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"quantization_config": "gptq"}'])
def test_a_broken_config_json_is_named(tmp_path, text):
    folder = folder_with(tmp_path, config__json=text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        AutoQuantizationConfig.from_pretrained(folder)


def test_a_method_of_an_absent_plugin_is_an_error_and_no_float_model(tmp_path):
    folder = folder_with(tmp_path, config__json={"quantization_config": {"quant_method": "far"}})
    with pytest.raises(UnknownMethodError, match="'far'"):
        AutoHfQuantizer.from_pretrained(folder)


def test_a_file_of_its_own_belongs_to_the_plugin_that_names_it(keyed, tmp_path):
    folder = folder_with(tmp_path, config__json={"model_type": "x"}, stub_config__json={"bits": 8})
    assert AutoQuantizationConfig.from_pretrained(folder) == StubConfig(bits=8)


def test_the_config_json_comes_before_a_file_of_its_own(keyed, tmp_path):
    folder = folder_with(
        tmp_path, config__json={"quantization_config": STORED}, stub_config__json={"bits": 2}
    )
    assert AutoQuantizationConfig.from_pretrained(folder).bits == 8


def test_a_file_of_its_own_may_name_another_method(keyed, tmp_path):
    folder = folder_with(tmp_path, stub_config__json={"quant_method": "stub_8bit", "bits": 8})
    assert AutoQuantizationConfig.from_pretrained(folder).bits == 8


def test_a_file_that_two_methods_claim_is_decided_by_its_keys_or_an_error(keyed, tmp_path):
    other = fake_distribution("dist-b", config_files={"stub_config.json": "other"})
    folder = folder_with(tmp_path, stub_config__json={"stub_in_8bit": True})
    with other:
        assert AutoQuantizationConfig.from_pretrained(folder).quant_method == "stub"
        folder_with(tmp_path, stub_config__json={"bits": 8})
        with pytest.raises(PluginConflictError, match="other, stub"):
            AutoQuantizationConfig.from_pretrained(folder)


def test_a_file_of_an_absent_plugin_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "quantload.config.stored.known", lambda: {CONFIG_FILES: {"far.json": "quantload-far"}}
    )
    folder = folder_with(tmp_path, far__json={"bits": 4})
    with pytest.raises(UnknownMethodError, match=r"far\.json.*pip install quantload-far"):
        AutoQuantizationConfig.from_pretrained(folder)
