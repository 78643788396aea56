"""The checks that start a fresh process, on packages that import torch where they must not."""

from __future__ import annotations

import pytest

from quantload.testing import ConfigSuite, KernelSuite, QuantizerSuite, fake_distribution

PLUGIN = """
{first}
from quantload.plugin import QuantizerPlugin, KernelPack
PLUGIN = QuantizerPlugin(
    api=1, config="impolite.config:Config", quantizer="impolite.quantizer:Quantizer", summary="x"
)
PACK = KernelPack(api=1, kernels=("toy8.kernel:Toy8Kernel",))
"""
CONFIG = """
{first}
from toy8.config import Toy8Config
class Config(Toy8Config):
    quant_method = "impolite"
"""
QUANTIZER = """
{first}
from stub_plugin import StubQuantizer
class Quantizer(StubQuantizer):
    pass
"""


def impolite(where=""):
    modules = {"plugin": PLUGIN, "config": CONFIG, "quantizer": QUANTIZER}
    return fake_distribution(
        "quantload-impolite",
        quantizers={"impolite": "impolite.plugin:PLUGIN"},
        kernels={"impolite": "impolite.plugin:PACK"},
        modules={
            f"impolite.{name}": text.format(first="import torch" if name == where else "")
            for name, text in modules.items()
        },
    )


class Config(ConfigSuite):
    method = "impolite"


class Quantizer(QuantizerSuite):
    method = "impolite"
    torch_free = True


class Kernels(KernelSuite):
    pack = "impolite"


CHECKS = {
    "plugin": [
        lambda: Quantizer().test_the_descriptor_imports_no_torch(),
        lambda: Kernels().test_the_descriptor_imports_no_torch(),
    ],
    "config": [lambda: Config().test_configs_are_made_without_torch()],
    "quantizer": [
        lambda: Quantizer().test_making_the_quantizer_imports_no_torch_where_declared({})
    ],
}


@pytest.mark.parametrize("where", CHECKS)
def test_torch_imported_in_the_wrong_place_is_seen(where):
    with impolite(where):
        for check in CHECKS[where]:
            with pytest.raises(AssertionError, match="imports torch"):
                check()


def test_a_polite_package_passes():
    with impolite():
        for checks in CHECKS.values():
            for check in checks:
                check()


def test_a_failure_in_the_child_is_a_failure_here():
    class Strict(ConfigSuite):
        method = "impolite"
        samples = ({"limit": "nonsense"},)

    with impolite(), pytest.raises(AssertionError, match="ConfigError"):
        Strict().test_configs_are_made_without_torch()


def test_the_method_has_to_come_from_the_declared_distribution():
    class Elsewhere(QuantizerSuite):
        method = "impolite"
        distribution = "quantload-elsewhere"

    with impolite(), pytest.raises(Exception, match="quantload-elsewhere"):
        Elsewhere().test_the_method_is_found_where_it_should_be()
