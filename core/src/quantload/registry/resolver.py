"""From a name to a plugin: candidates, choice, checks, and only then an import."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from quantload import env
from quantload._lazy import load_object
from quantload.errors import (
    PluginConflictError,
    PluginIncompatibleError,
    PluginLoadError,
    UnknownMethodError,
)
from quantload.plugin import API, QuantizerPlugin
from quantload.registry.hints import unknown_method_message
from quantload.registry.records import (
    CONFIG_KEYS,
    QUANTIZERS,
    EntryRecord,
    distribution_key,
    method_key,
)
from quantload.registry.requirements import check_requirements, core_requirement
from quantload.registry.scan import scan
from quantload.verdict import Verdict


@dataclass(frozen=True)
class Resolved:
    """A loaded descriptor together with where it came from."""

    record: EntryRecord
    plugin: Any

    def load(self, target: str | type) -> Any:
        """Import one of the plugin's `"module:attribute"` targets; a class is itself.

        Raises:
            PluginLoadError: the import failed; its cause is chained.
        """
        return _load(self.record, target) if isinstance(target, str) else target

    @property
    def config_class(self) -> Any:
        """The plugin's config class."""
        return self.load(self.plugin.config)

    @property
    def quantizer_class(self) -> Any:
        """The plugin's quantizer class."""
        return self.load(self.plugin.quantizer)

    def verdict(self) -> Verdict:
        """Whether the plugin's own requirements are met."""
        return check_requirements(self.plugin.requires)


class Registry:
    """All plugins of this process. Thread-safe; use the module's `registry`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._scanned: tuple[EntryRecord, ...] | None = None
        self._local: list[EntryRecord] = []
        self._loaded: dict[EntryRecord, Any] = {}
        self.generation = 0
        """Grows whenever what is known changes; what others derive from it is then stale."""

    def refresh(self) -> None:
        """Forget the scan, so that a plugin installed meanwhile is seen."""
        import importlib

        importlib.invalidate_caches()
        with self._lock:
            self._scanned = None
            self._loaded.clear()
            self.generation += 1

    def records(self, group: str) -> tuple[EntryRecord, ...]:
        """Every record of a group, in a fixed order; nothing is imported."""
        with self._lock:
            if self._scanned is None:
                self._scanned = scan()
            everything = (*self._scanned, *self._local)
        return tuple(r for r in everything if r.group == group)

    def add(self, record: EntryRecord) -> None:
        """Add a record made in code; see `quantload.register`."""
        with self._lock:
            self._local.append(record)
            self.generation += 1

    def remove(self, record: EntryRecord) -> None:
        """Take back what `add` added."""
        with self._lock:
            self._local = [r for r in self._local if r is not record]
            self._loaded = {k: v for k, v in self._loaded.items() if k is not record}
            self.generation += 1

    def candidates(self, group: str, name: str) -> tuple[EntryRecord, ...]:
        """The records that provide a name and may be loaded."""
        key = method_key(name)
        if key is None:
            return ()
        return tuple(r for r in self.records(group) if method_key(r.name) == key and allowed(r))

    def choose(self, group: str, name: str, provider: str | None = None) -> EntryRecord:
        """The one record that serves a name.

        Raises:
            UnknownMethodError: nobody provides it, or not the `provider` asked for.
            PluginConflictError: several do and nothing decides between them.
        """
        found = self.candidates(group, name)
        if not found:
            raise UnknownMethodError(unknown_method_message(group, name, self.records(group)))
        wanted = provider or _provider_from_env(name)
        if wanted:
            chosen = [
                r for r in found if distribution_key(r.distribution) == distribution_key(wanted)
            ]
            if not chosen:
                have = ", ".join(r.provider for r in found)
                raise UnknownMethodError(
                    f"{name!r} was asked for from {wanted!r}, which does not provide it; "
                    f"it is provided by: {have}"
                )
            found = tuple(chosen)
        overriding = [r for r in found if r.override]
        if overriding:
            return overriding[-1]
        if len({(distribution_key(r.distribution), r.value) for r in found}) > 1:
            lines = "\n".join(f"  {r.provider} ({r.value}, in {r.location})" for r in found)
            raise PluginConflictError(
                f"{name!r} is provided by more than one distribution:\n{lines}\n"
                f"pass provider=..., set {env.PROVIDER.name}={name}=DISTRIBUTION, or uninstall one"
            )
        return found[0]

    def resolve(self, name: str, provider: str | None = None) -> Resolved:
        """The quantization plugin for a method name; only its descriptor is imported.

        Raises:
            UnknownMethodError, PluginConflictError: see `choose`.
            PluginIncompatibleError: it was built for another core.
            PluginLoadError: its descriptor cannot be imported or is none.
        """
        if not isinstance(name, str):
            raise UnknownMethodError(f"quant_method must be a string, found {name!r}")
        record = self.choose(QUANTIZERS, name, provider)
        return Resolved(record, self.descriptor(record, QuantizerPlugin))

    def descriptor(self, record: EntryRecord, kind: type) -> Any:
        """Check and load the descriptor behind a record.

        Raises:
            PluginIncompatibleError, PluginLoadError: see `resolve`.
        """
        with self._lock:
            if record in self._loaded:
                return self._loaded[record]
        accepts = core_requirement(record.requires)
        if not accepts:
            raise PluginIncompatibleError(
                f"{record.provider} (for {record.name!r}) was built for another core: "
                f"{accepts.reason}; install a version of {record.distribution} that fits, "
                f"or {accepts.fix}"
            )
        value = record.target if record.target is not None else _load(record, record.value)
        api = getattr(value, "api", None)
        if isinstance(api, int) and api != API:
            raise PluginIncompatibleError(
                f"{record.provider} (for {record.name!r}) is written for plugin API {api}, this "
                f"core has {API}; install a version of {record.distribution} that fits"
            )
        if not isinstance(value, kind):
            raise PluginLoadError(
                f"{record.provider}: {record.value} should be a {kind.__name__}, "
                f"found {type(value).__name__}"
            )
        with self._lock:
            return self._loaded.setdefault(record, value)

    def method_for_keys(self, config: Any) -> str | None:
        """The method that owns a config without `quant_method`, told by its keys.

        Raises:
            PluginConflictError: keys of two methods are set.
        """
        owners = {
            method_key(r.value): r.value
            for r in self.records(CONFIG_KEYS)
            if allowed(r) and config.get(r.name) not in (None, False)
        }
        if len(owners) > 1:
            raise PluginConflictError(
                f"the config has no quant_method and keys of several methods: "
                f"{', '.join(sorted(owners.values()))}; add quant_method"
            )
        return next(iter(owners.values()), None)


def allowed(record: EntryRecord) -> bool:
    """Whether the environment lets this record's distribution be loaded."""
    name = distribution_key(record.distribution)
    only = {distribution_key(d) for d in env.ALLOW.items()}
    return name not in {distribution_key(d) for d in env.DISABLE.items()} and (
        not only or name in only
    )


def _provider_from_env(name: str) -> str | None:
    for item in env.PROVIDER.items():
        method, _, distribution = item.partition("=")
        if distribution and method_key(method.strip()) == method_key(name):
            return distribution.strip()
    return None


def _load(record: EntryRecord, target: str) -> Any:
    try:
        return load_object(target)
    except (Exception, SystemExit) as error:
        raise PluginLoadError(
            f"{record.provider}: {target} (for {record.name!r}, found in {record.location}) cannot "
            f"be loaded: {type(error).__name__}: {error}"
        ) from error


registry = Registry()
