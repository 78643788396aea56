"""From the name of a method to every name in its package; bad ones are refused."""

from __future__ import annotations

import re
from dataclasses import dataclass

from quantload.errors import ConfigError, PluginConflictError
from quantload.registry import registry
from quantload.registry.known import known_distribution
from quantload.registry.records import QUANTIZERS, method_key, shown

_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*", re.ASCII)
_LONGEST = 40


@dataclass(frozen=True)
class Names:
    """What a package for a method is made of.

    Attributes:
        method: the `quant_method`.
        distribution: what pip installs.
        package: what Python imports.
        prefix: of the classes.
    """

    method: str
    distribution: str
    package: str
    prefix: str


def names_for(method: str) -> Names:
    """The names of a package for a method.

    Raises:
        ConfigError: it cannot be the name of a method.
        PluginConflictError: an installed or known distribution provides that method.
    """
    if not _NAME.fullmatch(method) or len(method) > _LONGEST:
        hint = _suggestion(method)
        raise ConfigError(
            f"{shown(method)} cannot name a method; expected small letters, digits and single "
            f"hyphens or underscores between them, a letter first, {_LONGEST} characters at most"
            + (f"; try {hint!r}" if hint else ""),
            field="NAME",
            value=method,
        )
    if method.startswith(("quantload-", "quantload_")):
        short = method[len("quantload-") :]
        raise ConfigError(
            f"{method!r}: give the name of the method alone, {short!r}; the package will be "
            f"called quantload-{short}",
            field="NAME",
            value=method,
        )
    key = method_key(method) or method
    owner = next(
        (r.provider for r in registry.records(QUANTIZERS) if method_key(r.name) == key),
        known_distribution(QUANTIZERS, key),
    )
    if owner:
        raise PluginConflictError(
            f"{method!r} is provided by {owner} already; two packages with a method of one name "
            f"are an error for whoever installs both, so choose another name"
        )
    words = [word for word in re.split("[_-]", method) if word]
    return Names(
        method=method,
        distribution=f"quantload-{method.replace('_', '-')}",
        package=f"quantload_{method.replace('-', '_')}",
        prefix="".join(word.capitalize() for word in words),
    )


def _suggestion(method: str) -> str:
    """A name like it that would do; "" where there is none."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", method)
    made = re.sub(r"[^a-z0-9]+", "-", snake.lower()).strip("-")
    made = made.lstrip("0123456789-")
    return made if _NAME.fullmatch(made) and len(made) <= _LONGEST else ""
