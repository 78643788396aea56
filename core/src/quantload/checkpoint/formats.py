"""Readers of other file formats, which plugins provide by file suffix."""

from __future__ import annotations

from quantload.checkpoint.base import Checkpoint
from quantload.errors import MissingRequirementError, PluginLoadError
from quantload.plugin import FormatPlugin
from quantload.registry import Resolved, registry
from quantload.registry.known import known
from quantload.registry.records import FORMATS


def known_suffixes() -> tuple[str, ...]:
    """The suffixes (with their dot) that a plugin reads, installed or known to exist."""
    installed = {record.name for record in registry.records(FORMATS)}
    return tuple(sorted(f".{name}" for name in {*installed, *known().get(FORMATS, {})}))


def format_reader(suffix: str) -> type[Checkpoint]:
    """The `Checkpoint` class that reads files of a suffix (without its dot).

    Raises:
        UnknownMethodError: none is installed; the message says what to install.
        PluginConflictError, PluginIncompatibleError, PluginLoadError: see `Registry`.
        MissingRequirementError: the plugin needs something that is not installed.
    """
    record = registry.choose(FORMATS, suffix.lower())
    resolved = Resolved(record, registry.descriptor(record, FormatPlugin))
    verdict = resolved.verdict()
    if not verdict:
        raise MissingRequirementError(f"{record.provider} (for .{suffix} files): {verdict}")
    reader = resolved.load(resolved.plugin.reader)
    if not (isinstance(reader, type) and issubclass(reader, Checkpoint)):
        raise PluginLoadError(
            f"{record.provider}: {resolved.plugin.reader} should be a subclass of Checkpoint, "
            f"found {reader!r}"
        )
    return reader
