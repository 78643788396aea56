"""Values as JSON holds them, and back again to what an annotation asks for."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Mapping
from typing import Any

from quantload.config.dtypes import dtype_name, is_torch_dtype


def plain(value: Any) -> Any:
    """`value` as JSON would hold it: enums as their values, dtypes as their names.

    Sets become sorted lists, so that what is written never depends on a hash.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if is_torch_dtype(value):
        return dtype_name(value)
    if isinstance(value, Mapping):
        return {str(plain(k)): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def restored(value: Any, hint: Any) -> Any:
    """What `plain` made of a value of type `hint`, as that type; anything else as it is."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _first_change(value, args)
    kind = origin or hint
    if not isinstance(kind, type):
        return value
    if issubclass(kind, enum.Enum):
        return _member(kind, value)
    if isinstance(value, list) and issubclass(kind, (list, tuple, set, frozenset)):
        each = _item_hints(kind, args, len(value))
        return kind(restored(item, inner) for item, inner in zip(value, each, strict=True))
    if isinstance(value, dict) and issubclass(kind, Mapping) and len(args) == 2:
        return {_key(k, args[0]): restored(v, args[1]) for k, v in value.items()}
    return value


def _first_change(value: Any, hints: tuple[Any, ...]) -> Any:
    for hint in hints:
        kind = typing.get_origin(hint) or hint
        if isinstance(kind, type) and type(value) is kind and not typing.get_args(hint):
            return value
    for hint in hints:
        changed = restored(value, hint)
        if type(changed) is not type(value) or changed != value:
            return changed
    return value


def _member(kind: type[enum.Enum], value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        return value  # validation says what is allowed


def _item_hints(kind: type, args: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if issubclass(kind, tuple) and args and args[-1] is not Ellipsis:
        return args if len(args) == count else (Any,) * count
    return (args[0] if args else Any,) * count


def _key(key: str, hint: Any) -> Any:
    if hint is int and key.lstrip("-").isdigit():
        return int(key)
    return key
