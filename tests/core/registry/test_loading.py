"""What happens between a chosen record and a usable plugin."""

from __future__ import annotations

import sys
import textwrap

import pytest
from stub_plugin import plugin_source

from quantload import AutoHfQuantizer, AutoQuantizationConfig
from quantload.errors import PluginIncompatibleError, PluginLoadError, QuantloadError
from quantload.registry import registry
from quantload.testing import fake_distribution


def broken(source: str, target: str = "toy_a.plugin:PLUGIN", **kwargs):
    return fake_distribution(
        "dist-a",
        version="1.2",
        quantizers={"stub": target},
        modules={"toy_a.plugin": textwrap.dedent(source)},
        **kwargs,
    )


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import quantload_no_such_module", ModuleNotFoundError),
        ("1 / 0", ZeroDivisionError),
        ("def broken(:", SyntaxError),
        ("raise SystemExit(3)", SystemExit),
        ("class Odd(BaseException): pass\nraise Odd('x')", BaseException),
        ("raise GeneratorExit", GeneratorExit),
        (
            "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
            Exception,
        ),
        ("OTHER = 1", AttributeError),
    ],
)
def test_a_plugin_that_fails_to_import_says_which_and_why(source, cause):
    with broken(source), pytest.raises(PluginLoadError) as caught:
        registry.resolve("stub")
    text = str(caught.value)
    for part in ("dist-a 1.2", "toy_a.plugin:PLUGIN", "'stub'", ".dist-info"):
        assert part in text
    assert isinstance(caught.value.__cause__, cause)


def test_ctrl_c_during_an_import_is_not_swallowed():
    with broken("raise KeyboardInterrupt"), pytest.raises(KeyboardInterrupt):
        registry.resolve("stub")


def test_a_failed_import_can_be_tried_again(tmp_path):
    guard = f"""
import pathlib
if not pathlib.Path({str(tmp_path / "mended")!r}).exists():
    raise RuntimeError("not yet")
"""
    with broken(guard + plugin_source("mended")):
        with pytest.raises(PluginLoadError, match="not yet"):
            registry.resolve("stub")
        (tmp_path / "mended").touch()
        assert registry.resolve("stub").plugin.summary == "mended"


def test_a_broken_plugin_leaves_the_others_working():
    with (
        broken("raise RuntimeError"),
        fake_distribution(
            "dist-b",
            quantizers={"other": "toy_b.plugin:PLUGIN"},
            modules={"toy_b.plugin": plugin_source("b")},
        ),
    ):
        assert registry.resolve("other").plugin.summary == "b"
        with pytest.raises(PluginLoadError):
            registry.resolve("stub")


@pytest.mark.parametrize(
    "requirement",
    ["quantload>=99", "quantload<0.0.1", "QuantLoad==7", "quantload ~= 42.0"],
)
def test_a_plugin_for_another_core_is_refused_before_it_is_imported(requirement):
    with broken(plugin_source(), requires=("numpy", requirement)):
        with pytest.raises(PluginIncompatibleError, match=r"dist-a 1\.2 .*another core"):
            registry.resolve("stub")
        assert "toy_a" not in sys.modules
        assert "toy_a.plugin" not in sys.modules


@pytest.mark.parametrize(
    "requirement",
    [
        "quantload",
        "quantload>=0.1",
        "quantload[transformers]>=0.1,<9",
        'quantload>=99; python_version < "3"',
        'quantload>=99; extra == "next"',
        "quantload-other>=99",
        "quantload @ file:///somewhere",
    ],
)
def test_a_requirement_that_this_core_meets_is_no_obstacle(requirement):
    with broken(plugin_source("ok"), requires=(requirement,)):
        assert registry.resolve("stub").plugin.summary == "ok"


@pytest.mark.parametrize("requirement", ["quantload >= nonsense", "quantload>=1; who == 'x'"])
def test_a_requirement_on_the_core_that_cannot_be_read_is_not_taken_for_a_yes(requirement):
    with broken(plugin_source(), requires=(requirement,)):
        with pytest.raises(PluginIncompatibleError, match="cannot be read"):
            registry.resolve("stub")
        assert "toy_a.plugin" not in sys.modules


def test_another_api_is_refused_before_the_classes_are_loaded():
    source = """
    from quantload.plugin import QuantizerPlugin
    PLUGIN = QuantizerPlugin(api=99, config="toy_a.classes:C", quantizer="toy_a.classes:Q")
    """
    with broken(source):
        for ask in (AutoQuantizationConfig.from_dict, AutoHfQuantizer.from_config):
            with pytest.raises(PluginIncompatibleError, match=r"dist-a 1\.2.*API 99.*core has 1"):
                ask({"quant_method": "stub"})
        assert "toy_a.classes" not in sys.modules


def test_a_descriptor_of_a_future_kind_is_incompatible_and_not_broken():
    source = "class Descriptor:\n    api = 2\nPLUGIN = Descriptor()"
    with broken(source), pytest.raises(PluginIncompatibleError, match="API 2"):
        registry.resolve("stub")


@pytest.mark.parametrize(
    "source",
    [
        "PLUGIN = None",
        "PLUGIN = {'api': 1}",
        "from quantload.plugin import QuantizerPlugin as PLUGIN",
        "from quantload.plugin import KernelPack\nPLUGIN = KernelPack(api=1, kernels=())",
        "from os import system as PLUGIN",
    ],
)
def test_a_descriptor_of_the_wrong_type_is_refused(source):
    with broken(source), pytest.raises(PluginLoadError, match="should be a QuantizerPlugin"):
        registry.resolve("stub")


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ("config='m:C', quantizer='m:Q', requires='numpy'", "requires"),
        ("config='m:C', quantizer='m:Q', devices='cpu'", "devices"),
        ("config='m:C', quantizer='m:Q', devices=(0,)", "devices"),
        ("config=3, quantizer='m:Q'", "config"),
        ("config='m:C', quantizer=None", "quantizer"),
    ],
)
def test_a_descriptor_with_a_field_of_the_wrong_type_is_refused(fields, wrong):
    source = f"from quantload.plugin import QuantizerPlugin as Q\nPLUGIN = Q(api=1, {fields})"
    with broken(source), pytest.raises(PluginLoadError, match=rf"PLUGIN\.{wrong} should be"):
        registry.resolve("stub")


@pytest.mark.parametrize("api", ["'1'", "True", "1.0", "None"])
def test_an_api_that_is_no_whole_number_is_refused(api):
    source = f"""
    from quantload.plugin import QuantizerPlugin
    PLUGIN = QuantizerPlugin(api={api}, config="m:C", quantizer="m:Q")
    """
    with broken(source), pytest.raises(PluginLoadError, match=r"PLUGIN\.api should be"):
        registry.resolve("stub")


@pytest.mark.parametrize(
    "target",
    ["not a target", "", "toy_a.plugin", "os:system('x')", "toy_a/plugin:P", ":PLUGIN", "a:b:c"],
)
def test_a_malformed_target_is_reported_when_it_is_asked_for(target):
    with broken(plugin_source(), target), pytest.raises(PluginLoadError, match=r"dist-a 1\.2"):
        registry.resolve("stub")


def test_a_target_with_extras_is_read_without_them():
    with broken(plugin_source("ok"), "toy_a.plugin:PLUGIN [fast, gpu]"):
        assert registry.resolve("stub").plugin.summary == "ok"


@pytest.mark.parametrize(
    ("config", "quantizer", "match"),
    [
        ("stub_plugin:StubQuantizer", "stub_plugin:StubQuantizer", "QuantizationConfig"),
        ("stub_plugin:StubConfig", "stub_plugin:StubConfig", "HfQuantizer"),
        ("stub_plugin:absent", "stub_plugin:StubQuantizer", "absent"),
        ("no_such:C", "stub_plugin:StubQuantizer", "no_such"),
        ("quantload.plugin:QuantizationConfig", "stub_plugin:StubQuantizer", "quant_method"),
    ],
)
def test_classes_that_are_not_what_they_should_be_are_refused(config, quantizer, match):
    source = f"""
    from quantload.plugin import QuantizerPlugin
    PLUGIN = QuantizerPlugin(api=1, config={config!r}, quantizer={quantizer!r})
    """
    with broken(source), pytest.raises(PluginLoadError, match=match) as caught:
        AutoHfQuantizer.from_config({"quant_method": "stub"})
    assert "dist-a 1.2" in str(caught.value)


def test_every_failure_is_a_quantload_error_and_an_import_error():
    assert issubclass(PluginLoadError, (QuantloadError, ImportError))
    assert issubclass(PluginIncompatibleError, ImportError)
