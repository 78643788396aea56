"""Distributions known to provide a name, so that an error can say what to install.

The data is in `known.json`, which `tools/known_methods.py` generates from the
entry points of the workspace's plugins; the core itself knows no method.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files


@cache
def known() -> Mapping[str, Mapping[str, str]]:
    """Entry-point group -> name (as `method_key` writes it, for methods) -> distribution."""
    text = files("quantload.registry").joinpath("known.json").read_text(encoding="utf-8")
    table: dict[str, dict[str, str]] = json.loads(text)
    return table


def known_distribution(group: str, name: str) -> str | None:
    """The distribution known to provide a name, or None."""
    return known().get(group, {}).get(name)
