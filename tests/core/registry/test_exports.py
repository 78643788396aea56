"""`from quantload import NAME` for names that plugins export."""

from __future__ import annotations

import sys

import pytest
from stub_plugin import StubConfig

import quantload
from quantload.errors import (
    MissingRequirementError,
    PluginConflictError,
    PluginIncompatibleError,
    PluginLoadError,
)
from quantload.registry.records import EXPORTS
from quantload.testing import fake_distribution


def exporting(distribution="dist-a", target="stub_plugin:StubConfig", **kwargs):
    return fake_distribution(distribution, exports={"ToyExport": target}, **kwargs)


def test_an_installed_name_is_handed_out_and_forgotten_with_its_distribution():
    with exporting():
        from quantload import ToyExport

        assert ToyExport is StubConfig
    with pytest.raises(ImportError):
        from quantload import ToyExport


def test_a_name_nobody_knows_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'NobodysConfig'"):
        _ = quantload.NobodysConfig
    with pytest.raises(ImportError):
        from quantload import NobodysConfig  # noqa: F401


def test_a_known_name_says_what_to_install(monkeypatch):
    monkeypatch.setattr(
        "quantload.registry.known.known", lambda: {EXPORTS: {"FarConfig": "quantload-far"}}
    )
    with pytest.raises(MissingRequirementError, match="pip install quantload-far"):
        from quantload import FarConfig  # noqa: F401


def test_private_names_and_submodules_are_left_to_python():
    with pytest.raises(AttributeError):
        _ = quantload._nothing
    from quantload import errors

    assert errors is sys.modules["quantload.errors"]


def test_two_exporters_are_a_conflict_that_names_both():
    with (
        exporting("dist-a"),
        exporting("dist-b", "stub_plugin:StubQuantizer"),
        pytest.raises(PluginConflictError, match=r"dist-a 1\.0 and dist-b 1\.0"),
    ):
        _ = quantload.ToyExport


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"requires": ("quantload>=99",)}, PluginIncompatibleError),
        ({"target": "toy_absent.config:C"}, PluginLoadError),
        ({"target": "no target"}, PluginLoadError),
    ],
)
def test_what_cannot_be_loaded_says_so(kwargs, error):
    with exporting(**kwargs), pytest.raises(error, match=r"dist-a 1\.0"):
        _ = quantload.ToyExport


def test_a_class_of_a_plugin_for_another_api_is_not_imported():
    descriptor = "from quantload.plugin import QuantizerPlugin as Q\nPLUGIN = Q(9, 'm:C', 'm:Q')"
    with (
        exporting(
            target="toy_a.config:C",
            quantizers={"stub": "toy_a.plugin:PLUGIN"},
            modules={"toy_a.plugin": descriptor, "toy_a.config": "C = 1"},
        ),
        pytest.raises(PluginIncompatibleError, match="API 9"),
    ):
        _ = quantload.ToyExport
    assert "toy_a.config" not in sys.modules


def test_a_broken_kernel_pack_does_not_hide_the_config_beside_it():
    with exporting(kernels={"toy": "toy_absent:PACK"}):
        assert quantload.ToyExport is StubConfig


def test_a_disabled_distribution_exports_nothing(monkeypatch):
    monkeypatch.setenv("QUANTLOAD_DISABLE", "dist-a")
    with exporting(), pytest.raises(MissingRequirementError, match="QUANTLOAD_DISABLE"):
        _ = quantload.ToyExport
