"""Finding plugins: entry points as inert records, loaded one name at a time."""

from __future__ import annotations

from quantload.registry.local import register
from quantload.registry.records import EntryRecord
from quantload.registry.resolver import Registry, Resolved, registry

__all__ = ["EntryRecord", "Registry", "Resolved", "register", "registry"]
