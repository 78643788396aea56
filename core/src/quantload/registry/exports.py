"""Names of plugins that `from quantload import NAME` hands out."""

from __future__ import annotations

import logging
from typing import Any

from quantload.errors import (
    MissingRequirementError,
    PluginConflictError,
    PluginLoadError,
)
from quantload.registry.descriptors import KINDS, load_target, refuse_other_core
from quantload.registry.known import known_distribution
from quantload.registry.policy import permitted
from quantload.registry.records import EXPORTS, EntryRecord, distribution_key
from quantload.registry.resolver import registry

logger = logging.getLogger(__name__)

handed_out: set[str] = set()
"""Names that have been resolved, for `refresh` to forget."""


def exported(name: str) -> Any:
    """The object an installed plugin exports under `name`.

    Raises:
        AttributeError: no plugin is known to export it.
        MissingRequirementError: one is known that does, and it is not installed, or
            the environment does not let it be loaded.
        PluginError: the plugin cannot be loaded, or two export the name.
    """
    records = [r for r in registry.records(EXPORTS) if r.name == name]
    found = [r for r in records if permitted(r)]
    if not found:
        raise _absent(name, records)
    if len({(distribution_key(r.distribution), r.value) for r in found}) > 1:
        owners = " and ".join(r.provider for r in found)
        raise PluginConflictError(f"{name} is exported by {owners}; import it from one of them")
    record = found[0]
    if record.problem:
        raise PluginLoadError(f"{record.provider} (for {name!r}): {record.problem}")
    refuse_other_core(record)
    _check_api(record)
    value = load_target(record, record.value)
    handed_out.add(name)
    return value


def _absent(name: str, forbidden: list[EntryRecord]) -> Exception:
    if forbidden:
        reasons = "; ".join(permitted(r).reason for r in forbidden)
        return MissingRequirementError(f"{name} may not be loaded: {reasons}")
    distribution = known_distribution(EXPORTS, name)
    if distribution is None:
        return AttributeError(f"module 'quantload' has no attribute {name!r}")
    return MissingRequirementError(
        f"{name} is part of {distribution}, which is not installed: pip install {distribution}"
    )


def _check_api(export: EntryRecord) -> None:
    """Refuse a class of a plugin whose descriptors are written for another API."""
    for group, kind in KINDS.items():
        for record in registry.records(group):
            if record.distribution == export.distribution and not record.problem:
                try:
                    registry.descriptor(record, kind)
                except PluginLoadError as error:
                    logger.debug("%s: %s", export.provider, error)  # no reason to hide a config
