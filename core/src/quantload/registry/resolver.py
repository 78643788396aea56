"""From a name to a plugin: candidates, choice, checks, and only then an import."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantload import env
from quantload.errors import PluginConflictError, PluginLoadError, UnknownMethodError
from quantload.plugin import QuantizerPlugin
from quantload.registry.descriptors import load_descriptor, load_target
from quantload.registry.hints import unknown_method_message
from quantload.registry.policy import allowed, permitted, provider_from_env
from quantload.registry.records import (
    CONFIG_KEYS,
    QUANTIZERS,
    WHAT,
    EntryRecord,
    distribution_key,
    method_key,
    shown,
)
from quantload.registry.requirements import check_requirements
from quantload.registry.scan import scan
from quantload.verdict import Verdict

__all__ = ["Registry", "Resolved", "allowed", "registry"]


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
        return load_target(self.record, target) if isinstance(target, str) else target

    @property
    def config_class(self) -> Any:
        """The plugin's config class.

        Raises:
            PluginLoadError: it cannot be imported or is no usable config class.
        """
        from quantload.config.base import QuantizationConfig

        found = self._subclass(self.plugin.config, QuantizationConfig)
        if method_key(found.quant_method) is None:
            raise PluginLoadError(
                f"{self.record.provider}: {found.__qualname__}.quant_method should be the name of "
                f"a method, found {found.quant_method!r}"
            )
        return found

    @property
    def quantizer_class(self) -> Any:
        """The plugin's quantizer class.

        Raises:
            PluginLoadError: it cannot be imported or is no `HfQuantizer`.
        """
        from quantload.quantizers.base import HfQuantizer

        return self._subclass(self.plugin.quantizer, HfQuantizer)

    def _subclass(self, target: str | type, base: type) -> Any:
        found = self.load(target)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise PluginLoadError(
                f"{self.record.provider}: {target} should be a subclass of {base.__name__}, "
                f"found {found!r}"
            )
        return found

    def verdict(self) -> Verdict:
        """Whether the plugin's own requirements are met."""
        return check_requirements(self.plugin.requires)


class Registry:
    """All plugins of this process. Thread-safe; use the module's `registry`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._scanned: tuple[EntryRecord, ...] | None = None
        self._local: tuple[EntryRecord, ...] = ()
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
        """Add a record made in code; see `quantload.register`.

        Raises:
            PluginConflictError: another such record has the name, and this one does
                not override it.
        """
        with self._lock:
            for other in self._local:
                same = method_key(other.name) == method_key(record.name)
                if same and other.group == record.group and not record.override:
                    raise PluginConflictError(
                        f"{record.name!r} is registered in this process already; undo() that "
                        f"registration first, or pass override=True"
                    )
            self._local = (*self._local, record)
            self.generation += 1

    def remove(self, record: EntryRecord) -> None:
        """Take back what `add` added."""
        with self._lock:
            self._local = tuple(r for r in self._local if r is not record)
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
        wanted = provider or provider_from_env(name)
        if wanted:
            found = self._from_provider(group, name, found, wanted, explicit=bool(provider))
        overriding = [r for r in found if r.override]
        if overriding:
            return overriding[-1]
        if len({(distribution_key(r.distribution), r.value) for r in found}) > 1:
            lines = "\n".join(f"  {r.provider} ({r.value}, in {r.location})" for r in found)
            raise PluginConflictError(
                f"the {WHAT[group]} {name!r} is provided more than once:\n{lines}\n"
                f"pass provider=..., set {env.PROVIDER.name}={name}=DISTRIBUTION, uninstall one, "
                f"or register with override=True what was registered in code"
            )
        return found[0]

    def _from_provider(
        self,
        group: str,
        name: str,
        found: tuple[EntryRecord, ...],
        wanted: str,
        *,
        explicit: bool,
    ) -> tuple[EntryRecord, ...]:
        key = distribution_key(wanted)
        chosen = tuple(r for r in found if distribution_key(r.distribution) == key)
        if chosen:
            return chosen
        asked = "provider=" if explicit else env.PROVIDER.name
        for record in self.records(group):
            named = method_key(record.name) == method_key(name)
            if named and distribution_key(record.distribution) == key:
                raise UnknownMethodError(
                    f"{name!r} was asked for from {shown(wanted)} ({asked}), which may not be "
                    f"loaded: {permitted(record).reason}"
                )
        have = ", ".join(r.provider for r in found)
        raise UnknownMethodError(
            f"{name!r} was asked for from {shown(wanted)} ({asked}), which does not provide it; "
            f"it is provided by: {have}"
        )

    def resolve(self, name: str, provider: str | None = None) -> Resolved:
        """The quantization plugin for a method name; only its descriptor is imported.

        Raises:
            UnknownMethodError, PluginConflictError: see `choose`.
            PluginIncompatibleError: it was built for another core.
            PluginLoadError: its descriptor cannot be imported or is none.
        """
        record = self.choose(QUANTIZERS, name, provider)
        return Resolved(record, self.descriptor(record, QuantizerPlugin))

    def descriptor(self, record: EntryRecord, kind: type) -> Any:
        """Check and load the descriptor behind a record; see `load_descriptor`."""
        if record.target is not None:
            return load_descriptor(record, kind)
        with self._lock:
            if record in self._loaded:
                return self._loaded[record]
            generation = self.generation
        value = load_descriptor(record, kind)  # an import: never under the lock
        with self._lock:
            if generation != self.generation:
                return value  # refreshed meanwhile: not to be kept
            return self._loaded.setdefault(record, value)

    def method_for_keys(self, config: Mapping[str, Any]) -> str | None:
        """The method that owns a config without `quant_method`, told by its keys.

        Raises:
            PluginConflictError: keys of two methods are set.
        """
        owners = {
            method_key(r.value): r.value
            for r in self.records(CONFIG_KEYS)
            if not r.problem and config.get(r.name) not in (None, False) and allowed(r)
        }
        if len(owners) > 1:
            raise PluginConflictError(
                f"the config has no quant_method and keys of several methods: "
                f"{', '.join(sorted(owners.values()))}; add quant_method"
            )
        return next(iter(owners.values()), None)


registry = Registry()
