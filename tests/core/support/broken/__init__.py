"""Plugins that break one promise each. A suite that lets one of them pass is worthless.

Every case is `(name, expected, changes)`: `expected` names the check of the suite that
must fail for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    """One broken promise.

    Attributes:
        name: of the variant, and of its method.
        expected: the check that must fail.
        parts: what stands in the place of the correct classes ("weight", "quantizer",
            "config", "kernel"), and "declared": attributes of the suite.
    """

    name: str
    expected: str
    parts: dict[str, Any]


def case(expected: str, **parts: Any):
    """Put a class on the list of its module, under its own name."""

    def keep(cls: type) -> type:
        import sys

        cases = sys.modules[cls.__module__].__dict__.setdefault("CASES", [])
        cases.append(Case(cls.__name__, expected, {**parts, "class": cls}))
        return cls

    return keep
