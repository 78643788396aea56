"""Plugins registered in code, without a distribution."""

from __future__ import annotations

import pytest
from stub_plugin import PLUGIN, StubConfig, StubQuantizer, plugin_source

import quantload
from quantload.errors import (
    ConfigError,
    PluginConflictError,
    PluginIncompatibleError,
    PluginLoadError,
    UnknownMethodError,
)
from quantload.plugin import FormatPlugin, KernelPack, QuantizerPlugin
from quantload.registry import registry
from quantload.registry.records import FORMATS, KERNELS
from quantload.testing import fake_distribution


def installed():
    return fake_distribution(
        "dist-a",
        quantizers={"stub": "toy_a.plugin:PLUGIN"},
        modules={"toy_a.plugin": plugin_source("installed")},
    )


def with_summary(summary: str) -> QuantizerPlugin:
    return QuantizerPlugin(api=1, config=StubConfig, quantizer=StubQuantizer, summary=summary)


def test_two_classes_are_enough_and_leaving_the_block_takes_them_back():
    with quantload.register("stub", config=StubConfig, quantizer=StubQuantizer):
        quantizer = quantload.AutoHfQuantizer.from_config({"quant_method": "stub", "bits": 2})
        assert isinstance(quantizer, StubQuantizer)
        assert quantizer.quantization_config.bits == 2
    with pytest.raises(UnknownMethodError):
        registry.resolve("stub")


def test_undo_without_a_block_and_twice():
    registration = quantload.register("stub", PLUGIN)
    assert registry.resolve("stub").plugin is PLUGIN
    registration.undo()
    registration.undo()
    with pytest.raises(UnknownMethodError):
        registry.resolve("stub")


def test_an_error_inside_the_block_takes_the_registration_back():
    with pytest.raises(RuntimeError), quantload.register("stub", PLUGIN):
        raise RuntimeError
    with pytest.raises(UnknownMethodError):
        registry.resolve("stub")


def test_refresh_keeps_what_was_registered():
    with quantload.register("stub", PLUGIN):
        quantload.refresh()
        assert registry.resolve("stub").plugin is PLUGIN


def test_beside_an_installed_provider_it_is_a_conflict():
    with installed(), quantload.register("stub", PLUGIN):
        with pytest.raises(PluginConflictError, match=r"(?s)dist-a.*registered-in-code"):
            registry.resolve("stub")
        assert registry.resolve("stub", provider="dist-a").plugin.summary == "installed"
        assert registry.resolve("stub", provider="registered-in-code").plugin is PLUGIN


def test_override_wins_over_an_installed_provider_for_its_time():
    with installed():
        with quantload.register("stub", PLUGIN, override=True):
            assert registry.resolve("stub").plugin is PLUGIN
        assert registry.resolve("stub").plugin.summary == "installed"


def test_a_provider_asked_for_wins_over_an_override():
    with installed(), quantload.register("stub", PLUGIN, override=True):
        assert registry.resolve("stub", provider="dist-a").plugin.summary == "installed"


def test_the_same_name_twice_is_refused_at_once_and_changes_nothing():
    with quantload.register("stub", PLUGIN):
        with pytest.raises(PluginConflictError, match="override=True"):
            quantload.register("Stub", with_summary("second"))
        assert registry.resolve("stub").plugin is PLUGIN


def test_nested_overrides_come_off_in_any_order():
    base = quantload.register("stub", with_summary("base"))
    first = quantload.register("stub", with_summary("first"), override=True)
    second = quantload.register("stub", with_summary("second"), override=True)
    assert registry.resolve("stub").plugin.summary == "second"
    first.undo()
    assert registry.resolve("stub").plugin.summary == "second"
    second.undo()
    assert registry.resolve("stub").plugin.summary == "base"
    base.undo()


def test_environment_variables_that_name_distributions_leave_it_alone(monkeypatch):
    monkeypatch.setenv("QUANTLOAD_ALLOW", "dist-a")
    with quantload.register("stub", PLUGIN):
        assert registry.resolve("stub").plugin is PLUGIN


@pytest.mark.parametrize(
    ("plugin", "group"),
    [
        (KernelPack(api=1, kernels=()), KERNELS),
        (FormatPlugin(api=1, reader="m:R"), FORMATS),
    ],
)
def test_a_descriptor_goes_to_its_own_group(plugin, group):
    with quantload.register("stub", plugin) as registration:
        assert registration.record in registry.records(group)
        with pytest.raises(UnknownMethodError):
            registry.resolve("stub")


def test_the_same_name_in_two_groups_is_no_conflict():
    with quantload.register("stub", PLUGIN), quantload.register("stub", KernelPack(1, ())):
        assert registry.resolve("stub").plugin is PLUGIN


@pytest.mark.parametrize("name", ["../../x", "os:system", "", "a b", 3, None])
def test_a_name_that_cannot_name_a_method_is_refused(name):
    with pytest.raises(ConfigError, match="cannot be the name"):
        quantload.register(name, PLUGIN)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({}, "needs a plugin"),
        ({"config": StubConfig}, "needs a plugin"),
        ({"plugin": PLUGIN, "quantizer": StubQuantizer}, "not both"),
    ],
)
def test_it_must_be_clear_what_is_registered(kwargs, match):
    with pytest.raises(ConfigError, match=match):
        quantload.register("stub", **kwargs)


@pytest.mark.parametrize("plugin", [StubQuantizer, {"api": 1}, "m:P"])
def test_something_else_than_a_descriptor_is_refused(plugin):
    with pytest.raises(PluginLoadError, match="expected a QuantizerPlugin"):
        quantload.register("stub", plugin)


def test_classes_in_the_wrong_places_are_refused_and_not_registered():
    with pytest.raises(PluginLoadError, match="QuantizationConfig"):
        quantload.register("stub", config=StubQuantizer, quantizer=StubConfig)
    with pytest.raises(UnknownMethodError):
        registry.resolve("stub")


def test_another_api_is_refused():
    with pytest.raises(PluginIncompatibleError, match="API 2"):
        quantload.register("stub", QuantizerPlugin(2, StubConfig, StubQuantizer))


def test_whatever_is_derived_from_the_registry_is_told():
    before = registry.generation
    with quantload.register("stub", PLUGIN):
        inside = registry.generation
    assert before < inside < registry.generation
