"""Which provider serves a name."""

from __future__ import annotations

import pytest
from stub_plugin import plugin_source

from quantload.errors import ConfigError, PluginConflictError, UnknownMethodError
from quantload.registry import registry
from quantload.registry.records import QUANTIZERS, method_key
from quantload.testing import fake_distribution


def toy(distribution: str, module: str, method: str = "stub", **kwargs):
    return fake_distribution(
        distribution,
        quantizers={method: f"{module}.plugin:PLUGIN"},
        modules={f"{module}.plugin": plugin_source(distribution)},
        **kwargs,
    )


@pytest.fixture
def two_providers():
    with toy("dist-a", "toy_a", version="1.2"), toy("dist-b", "toy_b", version="3.4"):
        yield


def test_one_provider_serves():
    with toy("dist-a", "toy_a"):
        assert registry.resolve("stub").plugin.summary == "dist-a"


@pytest.mark.parametrize("spelling", ["Two-Words", "two_words", "TWO_WORDS", "two-words"])
def test_spellings_of_one_method_are_one(spelling):
    with toy("dist-a", "toy_a", "two-words"):
        assert registry.resolve(spelling).record.distribution == "dist-a"


def test_two_providers_are_no_error_until_their_name_is_resolved(two_providers):
    with toy("dist-c", "toy_c", "other"):
        assert registry.resolve("other").record.distribution == "dist-c"
    with pytest.raises(PluginConflictError, match=r"(?s)dist-a 1\.2.*dist-b 3\.4") as caught:
        registry.resolve("stub")
    assert "provider=" in str(caught.value)
    assert "QUANTLOAD_PROVIDER=stub=DISTRIBUTION" in str(caught.value)


@pytest.mark.parametrize("wanted", ["dist-b", "Dist_B", "dist.b"])
def test_provider_decides_between_two(two_providers, wanted):
    assert registry.resolve("stub", provider=wanted).record.distribution == "dist-b"


def test_the_environment_decides_between_two(two_providers, monkeypatch):
    monkeypatch.setenv("QUANTLOAD_PROVIDER", "gptq=elsewhere, stub = dist-b")
    assert registry.resolve("stub").record.distribution == "dist-b"


def test_provider_wins_over_the_environment(two_providers, monkeypatch):
    monkeypatch.setenv("QUANTLOAD_PROVIDER", "stub=dist-b")
    assert registry.resolve("stub", provider="dist-a").record.distribution == "dist-a"


def test_a_provider_that_does_not_provide_is_never_replaced(two_providers):
    with pytest.raises(UnknownMethodError, match=r"'dist-c' \(provider=\).*does not provide"):
        registry.resolve("stub", provider="dist-c")


def test_an_environment_variable_that_asks_for_the_absent_is_named(two_providers, monkeypatch):
    monkeypatch.setenv("QUANTLOAD_PROVIDER", "stub=dist-c")
    with pytest.raises(UnknownMethodError, match="QUANTLOAD_PROVIDER"):
        registry.resolve("stub")


@pytest.mark.parametrize("value", ["stub", "stub=", "=dist-a", "../x=dist-a"])
def test_a_malformed_environment_variable_is_an_error(two_providers, monkeypatch, value):
    monkeypatch.setenv("QUANTLOAD_PROVIDER", value)
    with pytest.raises(ConfigError, match="METHOD=DISTRIBUTION"):
        registry.resolve("stub")


def test_disabling_one_of_two_leaves_the_other(two_providers, monkeypatch):
    monkeypatch.setenv("QUANTLOAD_DISABLE", "something, Dist_A")
    assert registry.resolve("stub").record.distribution == "dist-b"


def test_allowing_one_of_two_leaves_it_alone(two_providers, monkeypatch):
    monkeypatch.setenv("QUANTLOAD_ALLOW", "dist-a")
    assert registry.resolve("stub").record.distribution == "dist-a"


@pytest.mark.parametrize(("variable", "value"), [("DISABLE", "dist-a"), ("ALLOW", "other")])
def test_a_disabled_provider_is_called_disabled_and_not_missing(monkeypatch, variable, value):
    monkeypatch.setenv(f"QUANTLOAD_{variable}", value)
    with (
        toy("dist-a", "toy_a"),
        pytest.raises(UnknownMethodError, match=rf"disabled.*dist-a.*QUANTLOAD_{variable}"),
    ):
        registry.resolve("stub")


def test_a_disabled_provider_that_was_asked_for_is_called_disabled(two_providers, monkeypatch):
    monkeypatch.setenv("QUANTLOAD_DISABLE", "dist-a")
    with pytest.raises(UnknownMethodError, match=r"may not be loaded.*QUANTLOAD_DISABLE"):
        registry.resolve("stub", provider="dist-a")


def test_one_distribution_that_contradicts_itself_is_a_conflict():
    text = f"[{QUANTIZERS}]\nstub = toy_a.plugin:PLUGIN\nstub = toy_a.other:PLUGIN\n"
    with (
        fake_distribution("dist-a", files={"entry_points.txt": text}),
        pytest.raises(PluginConflictError, match=r"(?s)toy_a\.other.*toy_a\.plugin"),
    ):
        registry.resolve("stub")


def test_aliases_of_one_distribution_are_no_conflict():
    names = {"stub": "toy_a.plugin:PLUGIN", "stub_v2": "toy_a.plugin:PLUGIN"}
    with fake_distribution(
        "dist-a", quantizers=names, modules={"toy_a.plugin": plugin_source("a")}
    ):
        assert registry.resolve("stub_v2").plugin.summary == "a"


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/etc/passwd",
        "os:system",
        "os.system()",
        "a b",
        "stub\n",
        "stub\x00",
        "\x1b[31mstub",
        "..",
        ".hidden",
        "a/../b",
        "a//b",
        "",
        "\uff53tub",
        "x" * 100_000,
    ],
    ids=lambda name: ascii(name[:20]),
)
def test_a_string_that_cannot_name_a_method_is_unknown_whatever_is_installed(name):
    assert method_key(name) is None
    with (
        fake_distribution("dist-a", quantizers={"stub": "toy_a.plugin:PLUGIN"}),
        pytest.raises(UnknownMethodError, match="cannot be a name") as caught,
    ):
        registry.resolve(name)
    text = str(caught.value)
    assert len(text) < 500
    assert text.isprintable()


@pytest.mark.parametrize("name", [None, 4, b"stub", ["stub"], object()])
def test_what_is_no_string_is_no_method(name):
    with pytest.raises(UnknownMethodError, match="cannot be a name"):
        registry.resolve(name)


@pytest.mark.parametrize("name", ["gptq", "compressed-tensors", "intel/auto-round", "fp8", "a.b"])
def test_names_in_use_elsewhere_can_name_a_method(name):
    assert method_key(name) is not None


def test_a_typing_error_is_answered_with_the_name_that_was_meant():
    with toy("dist-a", "toy_a", "specialquant"):
        with pytest.raises(UnknownMethodError, match="did you mean 'specialquant'\\?") as caught:
            registry.resolve("specalquant")
        assert "specialquant" in str(caught.value).split("Installed: ")[1]


def test_a_known_method_that_is_absent_is_answered_with_what_to_install(monkeypatch):
    monkeypatch.setattr(
        "quantload.registry.known.known", lambda: {QUANTIZERS: {"farquant": "quantload-far"}}
    )
    with pytest.raises(UnknownMethodError, match="pip install quantload-far"):
        registry.resolve("farquant")


def test_a_typing_error_in_an_absent_method_is_answered_with_both(monkeypatch):
    for module in ("known", "hints"):
        monkeypatch.setattr(
            f"quantload.registry.{module}.known",
            lambda: {QUANTIZERS: {"farquant": "quantload-far"}},
        )
    with pytest.raises(
        UnknownMethodError, match=r"did you mean 'farquant' \(pip install quantload-far\)\?"
    ):
        registry.resolve("farqant")
