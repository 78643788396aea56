"""Reading the entry points of everything installed."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterator

from quantload.registry.records import GROUPS, EntryRecord, distribution_key

logger = logging.getLogger(__name__)


def scan() -> tuple[EntryRecord, ...]:
    """Every entry point of quantload's groups, sorted by group, name and distribution.

    One distribution may be seen several times (an editable install beside a
    wheel, a path twice on `sys.path`): the first wins, for it is what an import
    would find. Metadata that cannot be read is logged and passed over.
    """
    found: list[EntryRecord] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        try:
            name = distribution.metadata["Name"]
            if not name or distribution_key(name) in seen:
                continue
            seen.add(distribution_key(name))
            found.extend(_records(distribution, name))
        except Exception as error:  # noqa: BLE001  any damage in one folder must not hide the rest
            where = getattr(distribution, "_path", "an unnamed place")
            logger.warning("the metadata in %s cannot be read: %s", where, error)
    return tuple(sorted(found, key=lambda r: (r.group, r.name, distribution_key(r.distribution))))


def _records(distribution: importlib.metadata.Distribution, name: str) -> Iterator[EntryRecord]:
    text = distribution.read_text("entry_points.txt")
    if not text or "quantload." not in text:
        return
    declared = {(e.group, e.name, e.value): e for e in distribution.entry_points}
    for entry in declared.values():
        if entry.group in GROUPS:
            yield EntryRecord(
                group=entry.group,
                name=entry.name,
                value=entry.value,
                distribution=name,
                version=distribution.version or "",
                requires=tuple(distribution.requires or ()),
                location=str(getattr(distribution, "_path", "")),
            )
