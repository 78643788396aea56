"""Overrides per module: regular expressions for names, of which the first that matches counts.

This is the `dynamic` of GPTQModel, which GPTQ and AWQ configs carry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from quantload.errors import ConfigError

SKIP = "-:"
"""In front of a pattern: the modules it matches stay float."""

TAKE = "+:"
"""In front of a pattern: as without it."""


def pattern_of(key: str) -> str:
    """The regular expression of a key of `dynamic`."""
    return key.removeprefix(SKIP).removeprefix(TAKE)


def override_for(dynamic: Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
    """The overrides of the first pattern that matches a module's name from its start.

    Args:
        dynamic: pattern, with or without a mark in front -> overrides.
        name: full name of the module.

    Returns:
        The overrides; empty where nothing matches, None where the module stays float.
    """
    for key, changes in (dynamic or {}).items():
        if re.match(pattern_of(key), name):
            return None if key.startswith(SKIP) else (changes or {})
    return {}


def check_overrides(
    owner: str, dynamic: Mapping[str, Any] | None, check: Callable[[str, Any], str | None]
) -> None:
    """Refuse patterns that cannot be matched and overrides that cannot be followed.

    Args:
        owner: the config class, for messages.
        dynamic: the overrides.
        check: given a key of an override and its value, what is allowed there; None
            where the value is.

    Raises:
        ConfigError: naming the pattern.
    """
    for key, changes in (dynamic or {}).items():
        try:
            re.compile(pattern_of(key))
        except (re.error, OverflowError, RecursionError) as error:
            raise _wrong(owner, key, key, f"a regular expression ({error})") from error
        if changes is not None and not isinstance(changes, Mapping):
            raise _wrong(owner, key, changes, "an object with overrides")
        for name, value in (changes or {}).items():
            allowed = check(name, value)
            if allowed is not None:
                raise _wrong(owner, f"{key}.{name}", value, allowed)


def _wrong(owner: str, where: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(
        f"{owner}.dynamic: {where}: found {value!r}, expected {allowed}",
        field="dynamic",
        value=value,
        allowed=allowed,
    )
