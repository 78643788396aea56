"""For authors of plugins: a conformance suite, and entry points without a package.

Importing this package imports neither pytest nor torch; the suites do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantload._lazy import lazy_exports

if TYPE_CHECKING:
    from quantload.testing.distributions import FakeDistribution, fake_distribution

_LAZY = {
    "FakeDistribution": "quantload.testing.distributions",
    "fake_distribution": "quantload.testing.distributions",
}
__getattr__, __dir__ = lazy_exports(__name__, _LAZY, globals())

__all__ = [
    "FakeDistribution",
    "fake_distribution",
]
