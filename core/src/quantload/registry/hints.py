"""What to say when nobody provides a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from quantload.registry.known import known, known_distribution
from quantload.registry.records import EntryRecord, method_key


def unknown_method_message(group: str, name: object, records: Iterable[EntryRecord]) -> str:
    """An error text: what to install, or what was meant, and what is installed."""
    installed = sorted({r.name for r in records})
    listing = ", ".join(installed) if installed else "none"
    what = {
        "quantload.quantizers": "quantization method",
        "quantload.kernels": "kernel pack",
        "quantload.formats": "checkpoint format",
    }.get(group, "name")
    head = f"no installed plugin provides the {what} {name!r}"
    key = method_key(name) if isinstance(name, str) else None
    if key is None:
        return f"{head}: that cannot be a name. Installed: {listing}"
    distribution = known_distribution(group, key)
    if distribution and key not in installed:
        return f"{head}. Install it: pip install {distribution}. Installed: {listing}"
    names = sorted({*installed, *known().get(group, {})})
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.7)
    if close:
        return f"{head}; did you mean {close[0]!r}? Installed: {listing}"
    return f"{head}. Installed: {listing}"
