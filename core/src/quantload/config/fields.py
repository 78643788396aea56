"""Fields of config classes: what they accept and what part they take in loading."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from quantload.errors import ConfigError


def option(
    default: Any = dataclasses.MISSING,
    *,
    default_factory: Any = dataclasses.MISSING,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[Any] | None = None,
    check: Callable[[Any], bool] | None = None,
    allowed: str = "",
    loading: bool = False,
    inert: bool = False,
) -> Any:
    """A field of a `QuantizationConfig`; the annotation gives its type.

    Args:
        default: default value.
        default_factory: makes the default where it is mutable.
        minimum: smallest number allowed.
        maximum: largest number allowed.
        choices: the only values allowed.
        check: returns whether a value of the right type is allowed.
        allowed: what `check` allows, in words, for the error.
        loading: a caller may override the stored value while loading (a compute
            dtype, a choice of kernel).
        inert: has no effect on reading a checkpoint (a calibration setting), so a
            caller's differing value is no contradiction.
    """
    metadata = {
        "minimum": minimum,
        "maximum": maximum,
        "choices": tuple(choices) if choices is not None else None,
        "check": check,
        "allowed": allowed,
        "loading": loading,
        "inert": inert,
    }
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def fits(value: object, hint: Any) -> bool:
    """Whether `value` is of the annotated type.

    A bool is no number, an int is a float, and what is not finite is none.
    """
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if hint in (None, type(None)):
        return value is None
    kind = origin or hint
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and _finite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(kind, type):
        return True
    if not isinstance(value, kind):
        return False
    return _items_fit(value, kind, args)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False  # an int that no float can hold


def _items_fit(value: Any, kind: type, args: tuple[Any, ...]) -> bool:
    if not args:
        return True
    if issubclass(kind, Mapping):
        return all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
    if issubclass(kind, tuple) and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(map(fits, value, args))
    if issubclass(kind, Collection):
        return all(fits(item, args[0]) for item in value)
    return True


def describe(hint: Any) -> str:
    """An annotated type in words, for an error."""
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if hint in (None, type(None)):
        return "None"
    if origin in (list, tuple, set, frozenset) and args:
        return f"{origin.__name__} of {describe(args[0])}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
    return names.get(hint) or str(getattr(hint, "__name__", hint))


def allowed_values(hint: Any, metadata: typing.Mapping[str, Any]) -> str:
    """What a field accepts, in words."""
    if metadata.get("allowed"):
        return str(metadata["allowed"])
    if metadata.get("choices") is not None:
        return "one of " + ", ".join(repr(c) for c in metadata["choices"])
    low, high = metadata.get("minimum"), metadata.get("maximum")
    words = describe(hint)
    if low is not None and high is not None:
        return f"{words} from {low} to {high}"
    if low is not None:
        return f"{words}, at least {low}"
    return f"{words}, at most {high}" if high is not None else words


def validate(owner: str, name: str, value: Any, hint: Any, metadata: Any) -> None:
    """Check one field.

    Raises:
        ConfigError: wrong type or a value that is not allowed.
    """
    good = fits(value, hint)
    if good and value is not None:
        choices, check = metadata.get("choices"), metadata.get("check")
        low, high = metadata.get("minimum"), metadata.get("maximum")
        good = (
            (choices is None or value in choices)
            and (low is None or value >= low)
            and (high is None or value <= high)
            and (check is None or check(value))
        )
    if not good:
        allowed = allowed_values(hint, metadata)
        raise ConfigError(
            f"{owner}.{name}: found {value!r}, expected {allowed}",
            field=name,
            value=value,
            allowed=allowed,
        )
