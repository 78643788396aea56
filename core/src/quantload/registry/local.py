"""Plugins registered in code: notebooks, tests, applications with a method of their own."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Any

from quantload.errors import ConfigError, PluginLoadError
from quantload.plugin import API, FormatPlugin, KernelPack, QuantizerPlugin
from quantload.registry.descriptors import KINDS, load_descriptor
from quantload.registry.records import EntryRecord, method_key, shown
from quantload.registry.resolver import Resolved, registry

if TYPE_CHECKING:
    from quantload.config.base import QuantizationConfig
    from quantload.quantizers.base import HfQuantizer

IN_CODE = "registered-in-code"
"""Stands for the distribution of what has none; `provider=` takes it, too."""


class Registration(contextlib.AbstractContextManager["Registration"]):
    """Something registered; `undo()` or leaving the `with` block takes it back."""

    def __init__(self, record: EntryRecord) -> None:
        self.record = record
        registry.add(record)

    def undo(self) -> None:
        """Take the registration back. Doing it twice is harmless."""
        registry.remove(self.record)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.undo()


def register(
    name: str,
    plugin: QuantizerPlugin | KernelPack | FormatPlugin | None = None,
    *,
    config: type[QuantizationConfig] | None = None,
    quantizer: type[HfQuantizer] | None = None,
    override: bool = False,
) -> Registration:
    """Make a plugin known to this process without a distribution.

    Args:
        name: the `quant_method`, the name of a kernel pack, or a file suffix.
        plugin: a descriptor; or leave it out and give the two classes.
        config: a `QuantizationConfig` class.
        quantizer: an `HfQuantizer` class.
        override: win over an installed or registered plugin of the same name, for
            as long as this registration lasts.

    Returns:
        The registration, a context manager; `undo()` takes it back.

    Raises:
        ConfigError: `name` cannot name a method, or it is not clear what to register.
        PluginError: the plugin or its classes are not what they should be, or the
            name is registered already and `override` is not set.
    """
    if method_key(name) is None:
        raise ConfigError(f"{shown(name)} cannot be the name of a method", field="name", value=name)
    if plugin is not None and (config is not None or quantizer is not None):
        raise ConfigError("register() takes a plugin, or config= and quantizer=, not both")
    target: Any = plugin
    if target is None:
        if config is None or quantizer is None:
            raise ConfigError("register() needs a plugin, or both config= and quantizer=")
        target = QuantizerPlugin(api=API, config=config, quantizer=quantizer)
    group = next((g for g, kind in KINDS.items() if isinstance(target, kind)), None)
    if group is None:
        raise PluginLoadError(
            f"register({name!r}): expected a QuantizerPlugin, a KernelPack or a FormatPlugin, "
            f"found {type(target).__name__}"
        )
    record = EntryRecord(
        group=group,
        name=name,
        value=f"registered:{name}",
        distribution=IN_CODE,
        location="this process",
        target=target,
        override=override,
    )
    load_descriptor(record, KINDS[group])
    if config is not None:
        found = Resolved(record, target)
        _ = found.config_class, found.quantizer_class  # both refuse what is none
    return Registration(record)
