"""Reading an `entry_points.txt` so that one bad line costs that line only.

Source of the format: the entry points specification of the PyPA. The reader of
`importlib.metadata` gives up on the whole file at a line without an equals sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from quantload.registry.records import (
    CONFIG_FILES,
    CONFIG_KEYS,
    FORMATS,
    GROUPS,
    KERNELS,
    QUANTIZERS,
    method_key,
    shown,
)

_EXTRAS = re.compile(r"\s*\[[^\]]*\]\s*$")


@dataclass(frozen=True)
class EntryPoint:
    """One line of a group that is quantload's.

    Attributes:
        group: the section it stands in.
        name: left of the equals sign.
        value: right of it, without extras.
        problem: why it cannot be used, or "".
    """

    group: str
    name: str
    value: str
    problem: str = ""


def parse_entry_points(text: str) -> Iterator[EntryPoint]:
    """The entry points of quantload's groups, in file order, each once."""
    group = ""
    seen: set[tuple[str, str, str]] = set()
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
            continue
        if group not in GROUPS:
            continue
        name, equals, right = (part.strip() for part in line.partition("="))
        value = _EXTRAS.sub("", right)
        if (group, name, value) not in seen:
            seen.add((group, name, value))
            problem = _problem(group, name, value) if equals else "the line has no equals sign"
            yield EntryPoint(group, name, value, problem)


def _problem(group: str, name: str, value: str) -> str:
    if group in (CONFIG_KEYS, CONFIG_FILES):
        if method_key(value) is None:
            return f"{shown(value)} cannot be the name of a method"
        if group == CONFIG_FILES and (not name or "/" in name or "\\" in name or ".." in name):
            return f"{shown(name)} is not a plain file name"
        return ""
    if group in (QUANTIZERS, KERNELS, FORMATS) and method_key(name) is None:
        return f"{shown(name)} cannot be a name"
    module, colon, attribute = value.partition(":")
    if not colon or not all(p.isidentifier() for p in (*module.split("."), *attribute.split("."))):
        return f"its target {shown(value)} is not of the form 'module:attribute'"
    return ""
