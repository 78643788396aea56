"""From a record to a checked descriptor; everything that can go wrong says whose fault it is."""

from __future__ import annotations

from typing import Any

from quantload._lazy import load_object
from quantload.errors import PluginIncompatibleError, PluginLoadError
from quantload.plugin import API, FormatPlugin, KernelPack, QuantizerPlugin
from quantload.registry.records import FORMATS, KERNELS, QUANTIZERS, EntryRecord
from quantload.registry.requirements import core_requirement

KINDS: dict[str, type] = {
    QUANTIZERS: QuantizerPlugin,
    KERNELS: KernelPack,
    FORMATS: FormatPlugin,
}
"""What the entry points of a group have to point at."""


def load_target(record: EntryRecord, target: str) -> Any:
    """Import a `"module:attribute"` of a record's distribution.

    Raises:
        PluginLoadError: it cannot be imported; the cause is chained. This covers
            whatever the plugin raises, `SystemExit` included, but not Ctrl-C.
    """
    try:
        return load_object(target)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginLoadError(
            f"{record.provider}: {target} (for {record.name!r}, found in {record.location}) "
            f"cannot be loaded: {type(error).__name__}: {_message(error)}"
        ) from error


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  the message of a stranger's exception is a stranger's code
        return "(its message cannot be shown)"


def refuse_other_core(record: EntryRecord) -> None:
    """Refuse a distribution whose `Requires-Dist` does not accept this core.

    Raises:
        PluginIncompatibleError: it was built for another core.
    """
    accepts = core_requirement(record.requires)
    if not accepts:
        raise PluginIncompatibleError(
            f"{record.provider} (for {record.name!r}) was built for another core: "
            f"{accepts.reason}; install a version of {record.distribution} that fits, "
            f"or {accepts.fix}"
        )


def load_descriptor(record: EntryRecord, kind: type) -> Any:
    """Check and load what a record points at.

    Raises:
        PluginIncompatibleError: see `refuse_other_core`; or it has another `api`.
        PluginLoadError: it cannot be imported, or is not a `kind`, or its fields
            are not what they should be.
    """
    if record.problem:
        raise PluginLoadError(
            f"{record.provider} (for {record.name!r}, found in {record.location}): {record.problem}"
        )
    refuse_other_core(record)
    value = record.target if record.target is not None else load_target(record, record.value)
    api = getattr(value, "api", None)
    if type(api) is int and api != API:
        raise PluginIncompatibleError(
            f"{record.provider} (for {record.name!r}) is written for plugin API {api}, this "
            f"core has {API}; install a version of {record.distribution} that fits"
        )
    if not isinstance(value, kind):
        raise PluginLoadError(
            f"{record.provider}: {record.value} should be a {kind.__name__}, "
            f"found {type(value).__name__}"
        )
    for name, expected in _wrong_fields(value):
        raise PluginLoadError(
            f"{record.provider}: {record.value}.{name} should be {expected}, "
            f"found {getattr(value, name)!r}"
        )
    return value


def _wrong_fields(value: Any) -> list[tuple[str, str]]:
    """Fields of a descriptor that are not of their type, with what they should be."""
    wrong = [] if type(value.api) is int else [("api", "a whole number")]
    for name in ("requires", "devices", "kernels"):
        items = getattr(value, name, ())
        # a bare string is a sequence of strings, too
        if not isinstance(items, (tuple, list)) or not all(isinstance(i, str) for i in items):
            wrong.append((name, "a tuple of strings"))
    targets = [
        n for n in ("config", "quantizer", "reader", "writer", "splitter") if hasattr(value, n)
    ]
    wrong.extend(
        (name, "'module:attribute' or a class")
        for name in targets
        if not isinstance(getattr(value, name), (str, type))
    )
    return wrong
