"""What users call on the registry."""

from __future__ import annotations

from quantload.registry.resolver import registry


def refresh() -> None:
    """See plugins that were installed into the running process."""
    registry.refresh()
