"""What to say when nobody provides a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from quantload.registry.known import known, known_distribution
from quantload.registry.policy import permitted
from quantload.registry.records import WHAT, EntryRecord, method_key, shown


def unknown_method_message(group: str, name: object, records: Iterable[EntryRecord]) -> str:
    """An error text: what to install or to allow, or what was meant, and what is installed.

    Args:
        group: the entry-point group that was searched.
        name: what was asked for.
        records: everything in that group.
    """
    usable: set[str] = set()
    forbidden: list[str] = []
    key = method_key(name)
    for record in records:
        verdict = permitted(record)
        if verdict and method_key(record.name) is not None:
            usable.add(record.name)
        elif key is not None and method_key(record.name) == key:
            forbidden.append(verdict.reason)
    listing = f"Installed: {', '.join(sorted(usable)) or 'none'}"
    head = f"no installed plugin provides the {WHAT.get(group, 'name')} {shown(name)}"
    if key is None:
        return f"{head}: that cannot be a name. {listing}"
    if forbidden:
        return f"the {WHAT.get(group, 'name')} {shown(name)} is disabled: {'; '.join(forbidden)}"
    distribution = known_distribution(group, key)
    if distribution:
        return f"{head}. Install it: pip install {distribution}. {listing}"
    close = difflib.get_close_matches(key, sorted({*usable, *known().get(group, {})}), n=1)
    if not close:
        return f"{head}. {listing}"
    owner = None if close[0] in usable else known_distribution(group, close[0])
    install = f" (pip install {owner})" if owner else ""
    return f"{head}; did you mean {close[0]!r}{install}? {listing}"
