"""For authors of plugins: a conformance suite, and entry points without a package.

Importing this package imports neither pytest nor torch; the suites do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantload._lazy import lazy_exports

if TYPE_CHECKING:
    from quantload.testing.config_suite import ConfigSuite
    from quantload.testing.declared import MethodSuite
    from quantload.testing.distributions import FakeDistribution, fake_distribution
    from quantload.testing.kernel_suite import KernelSuite
    from quantload.testing.quantizer_suite import QuantizerSuite
    from quantload.testing.weight_suite import WeightSuite

_SUITES = {
    "ConfigSuite": "quantload.testing.config_suite",
    "KernelSuite": "quantload.testing.kernel_suite",
    "QuantizerSuite": "quantload.testing.quantizer_suite",
    "WeightSuite": "quantload.testing.weight_suite",
}
_ASSERTING = (
    *_SUITES.values(),
    "quantload.testing.compiling",
    "quantload.testing.damage",
    "quantload.testing.declared",
    "quantload.testing.roundtrip",
    "quantload.testing.weight_bytes",
    "quantload.testing.weight_changes",
    "quantload.testing.weight_numbers",
)
_LAZY = {
    **_SUITES,
    "MethodSuite": "quantload.testing.declared",
    "FakeDistribution": "quantload.testing.distributions",
    "fake_distribution": "quantload.testing.distributions",
}
_lazy, __dir__ = lazy_exports(__name__, _LAZY, globals())


def __getattr__(name: str) -> Any:
    """The public names; suites get the readable failures that pytest gives test modules."""
    if name in (*_SUITES, "MethodSuite"):
        import pytest

        pytest.register_assert_rewrite(*_ASSERTING)
    return _lazy(name)


__all__ = [
    "ConfigSuite",
    "FakeDistribution",
    "KernelSuite",
    "MethodSuite",
    "QuantizerSuite",
    "WeightSuite",
    "fake_distribution",
]
