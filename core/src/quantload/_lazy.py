"""Public names that are imported when they are first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(
    package: str, table: Mapping[str, str], namespace: dict[str, Any]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package whose names live elsewhere.

    Args:
        package: the package's own dotted name, for messages.
        table: public name -> module that defines it, or `"module:attribute"`.
        namespace: the package's `globals()`; what was resolved is kept there.
    """

    def __getattr__(name: str) -> Any:
        target = table.get(name)
        if target is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module_name, _, attribute = target.partition(":")
        value = getattr(importlib.import_module(module_name), attribute or name)
        namespace[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*namespace, *table})

    return __getattr__, __dir__


def load_object(target: str) -> Any:
    """Import `"module:attribute"` (attributes may be dotted) and return the object.

    Raises:
        ValueError: `target` is not of that form.
    """
    module_name, colon, attribute = target.partition(":")
    parts = attribute.split(".")
    if not colon or not all(p.isidentifier() for p in (*module_name.split("."), *parts)):
        raise ValueError(f"{target!r} is not of the form 'module:attribute'")
    value: Any = importlib.import_module(module_name)
    for part in parts:
        value = getattr(value, part)
    return value
