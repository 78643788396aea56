"""Readers of other file formats, which plugins provide by file suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantload.checkpoint.base import Checkpoint
from quantload.errors import MissingRequirementError, PluginLoadError, UnsupportedOperationError
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
    resolved = _resolved(suffix)
    reader = resolved.load(resolved.plugin.reader)
    if not (isinstance(reader, type) and issubclass(reader, Checkpoint)):
        raise PluginLoadError(
            f"{resolved.record.provider}: {resolved.plugin.reader} should be a subclass of "
            f"Checkpoint, found {reader!r}"
        )
    return reader


def format_writer(suffix: str) -> Callable[[Any, Path], None]:
    """The function that writes a model as a file of a suffix (without its dot).

    It is called with `quantload.plugin.ModelParts` and the path that it is to make.

    Raises:
        UnsupportedOperationError: files of the format are only read.
        UnknownMethodError, PluginError, MissingRequirementError: see `format_reader`.
    """
    resolved = _resolved(suffix)
    if not resolved.plugin.writer:
        raise UnsupportedOperationError(
            f"{resolved.record.provider} reads .{suffix} files and writes none; save into a folder"
        )
    found: Callable[[Any, Path], None] = resolved.load(resolved.plugin.writer)
    return found


def format_splitter(suffix: str) -> Callable[[Any, Path, int], list[Path]]:
    """The function that writes a model as several files of a suffix (without its dot).

    It is called with `quantload.plugin.ModelParts`, the path that the names are made from, and
    the bytes that the tensors of a file may take; it gives the files, the first one first.

    Raises:
        UnsupportedOperationError: files of the format are written whole.
        UnknownMethodError, PluginError, MissingRequirementError: see `format_reader`.
    """
    resolved = _resolved(suffix)
    if not resolved.plugin.splitter:
        raise UnsupportedOperationError(
            f"{resolved.record.provider} writes .{suffix} files whole: leave max_shard_size out, "
            f"or save into a folder"
        )
    found: Callable[[Any, Path, int], list[Path]] = resolved.load(resolved.plugin.splitter)
    return found


def _resolved(suffix: str) -> Any:
    record = registry.choose(FORMATS, suffix.lower())
    resolved = Resolved(record, registry.descriptor(record, FormatPlugin))
    verdict = resolved.verdict()
    if not verdict:
        raise MissingRequirementError(f"{record.provider} (for .{suffix} files): {verdict}")
    return resolved
