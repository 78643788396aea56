"""Plugins registered in code: notebooks, tests, applications with a method of their own."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Any

from quantload.errors import ConfigError
from quantload.plugin import API, KernelPack, QuantizerPlugin
from quantload.registry.records import KERNELS, QUANTIZERS, EntryRecord, method_key
from quantload.registry.resolver import registry

if TYPE_CHECKING:
    from quantload.config.base import QuantizationConfig
    from quantload.quantizers.base import HfQuantizer


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
    plugin: QuantizerPlugin | KernelPack | None = None,
    *,
    config: type[QuantizationConfig] | None = None,
    quantizer: type[HfQuantizer] | None = None,
    override: bool = False,
) -> Registration:
    """Make a plugin known to this process without a distribution.

    Args:
        name: the `quant_method`, or the name of a kernel pack.
        plugin: a descriptor; or leave it out and give the two classes.
        config: a `QuantizationConfig` class.
        quantizer: an `HfQuantizer` class.
        override: win over an installed plugin of the same name.

    Returns:
        The registration, a context manager; `undo()` takes it back.

    Raises:
        ConfigError: `name` cannot name a method, or the classes are missing.
    """
    if method_key(name) is None:
        raise ConfigError(f"{name!r} cannot be the name of a method", field="name", value=name)
    target: Any = plugin
    if target is None:
        if config is None or quantizer is None:
            raise ConfigError("register() needs a plugin, or config= and quantizer=")
        target = QuantizerPlugin(api=API, config=config, quantizer=quantizer)
    group = KERNELS if isinstance(target, KernelPack) else QUANTIZERS
    record = EntryRecord(
        group=group,
        name=name,
        value=f"registered:{name}",
        distribution="registered-in-code",
        location="this process",
        target=target,
        override=override,
    )
    return Registration(record)
