"""What there is and whether it can serve: every record with a status and a reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from quantload.errors import (
    PluginConflictError,
    PluginIncompatibleError,
    PluginLoadError,
    UnknownMethodError,
)
from quantload.registry.descriptors import KINDS
from quantload.registry.policy import permitted
from quantload.registry.records import EntryRecord, method_key
from quantload.registry.requirements import check_requirements
from quantload.registry.resolver import Registry, registry

Status = Literal["ready", "missing", "disabled", "not chosen", "conflict", "incompatible", "broken"]

FAULTS: frozenset[Status] = frozenset({"conflict", "incompatible", "broken"})
"""What is wrong with an installation; the others are a wish, or something to install."""


@dataclass(frozen=True)
class PluginStatus:
    """One record and what can be said of it without torch.

    Attributes:
        record: the entry point or registration.
        status: "ready"; "missing" (a requirement is not met); "disabled" (by an
            environment variable); "not chosen" (another provider of the name is);
            "conflict"; "incompatible" (built for another core); "broken".
        reason: why it is not ready, or "".
        fix: what would mend it, or "".
        devices: torch device types it runs on.
        summary: the plugin's own line.
    """

    record: EntryRecord
    status: Status
    reason: str = ""
    fix: str = ""
    devices: tuple[str, ...] = ()
    summary: str = ""


def plugin_statuses(
    groups: Iterable[str] = tuple(KINDS), source: Registry = registry
) -> list[PluginStatus]:
    """The status of everything in the groups, in their order; imports descriptors only.

    Raises:
        ConfigError: an environment variable of quantload is malformed.
    """
    return [status_of(record, source) for group in groups for record in source.records(group)]


def status_of(record: EntryRecord, source: Registry = registry) -> PluginStatus:
    """The status of one record; see `plugin_statuses`."""
    may = permitted(record)
    if not may:
        return PluginStatus(record, "disabled", may.reason, may.fix)
    if record.problem:
        return PluginStatus(record, "broken", record.problem, _reinstall(record))
    if method_key(record.name) is not None:
        try:
            chosen = source.choose(record.group, record.name)
        except PluginConflictError as error:
            return PluginStatus(record, "conflict", str(error))
        except UnknownMethodError as error:  # the environment asks for an absent provider
            return PluginStatus(record, "not chosen", str(error))
        if _source(chosen) != _source(record):
            return PluginStatus(record, "not chosen", f"{chosen.provider} serves {record.name!r}")
    try:
        plugin = source.descriptor(record, KINDS[record.group])
    except PluginIncompatibleError as error:
        return PluginStatus(record, "incompatible", str(error))
    except PluginLoadError as error:
        return PluginStatus(record, "broken", str(error), _reinstall(record))
    met = check_requirements(plugin.requires)
    return PluginStatus(
        record,
        "ready" if met else "missing",
        met.reason,
        met.fix,
        tuple(getattr(plugin, "devices", ())),
        plugin.summary,
    )


def _source(record: EntryRecord) -> tuple[str, str, int]:
    return record.distribution, record.value, id(record.target)


def _reinstall(record: EntryRecord) -> str:
    if record.target is not None:
        return ""
    return f"pip install --force-reinstall --no-deps {record.distribution}"
