"""The types of a config class's fields, also where the annotations name absent things."""

from __future__ import annotations

import typing
from typing import Any

_known: dict[type, dict[str, Any]] = {}


class _Absent(type):
    """Stands for a module or name that is imported for type checkers only."""

    def __getattr__(cls, name: str) -> Any:
        return Any


def type_hints(cls: type) -> dict[str, Any]:
    """Field -> annotated type.

    A name that does not exist at run time (`torch.dtype` with torch imported under
    `TYPE_CHECKING`) means "anything".
    """
    if cls not in _known:
        absent: dict[str, Any] = {}
        while True:
            try:
                _known[cls] = typing.get_type_hints(cls, localns=absent or None)
                break
            except NameError as error:
                if not error.name or error.name in absent:
                    raise
                absent[error.name] = _Absent(error.name, (), {})
    return _known[cls]
