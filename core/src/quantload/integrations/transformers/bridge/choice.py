"""Which methods the bridge serves, and which stay with `transformers`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from transformers.quantizers import auto
from transformers.utils.quantization_config import QuantizationMethod

from quantload.errors import ConfigError
from quantload.registry import registry
from quantload.registry.records import QUANTIZERS, method_key, shown


class Choice:
    """The methods of one call of `enable_transformers`.

    Args:
        only: names of the methods to serve; None is all that are installed.
        keep: names of those that stay as they are.

    Raises:
        UnknownMethodError: nobody provides a method of `only`.
        ConfigError: nobody knows a method of `keep`, or these are no names.
    """

    def __init__(
        self, only: str | Iterable[str] | None = None, keep: str | Iterable[str] | None = None
    ) -> None:
        self._only = None if only is None else _keys("only", only)
        self._keep = _keys("keep", keep or ())
        for name in self._only or {}:
            registry.choose(QUANTIZERS, name)
        own = {method_key(name) for name in [*auto.AUTO_QUANTIZER_MAPPING, *_transformers_names()]}
        for key, name in self._keep.items():
            if key not in own and not registry.candidates(QUANTIZERS, key):
                raise ConfigError(
                    f"keep={name!r}: neither transformers nor an installed plugin has this method",
                    field="keep",
                    value=name,
                )

    def serves(self, name: str) -> bool:
        """Whether a method is quantload's."""
        key = method_key(name)
        if key is None or not registry.candidates(QUANTIZERS, key):
            return False
        family = _family(key)
        if self._only is not None and family.isdisjoint(self._only):
            return False
        return family.isdisjoint(self._keep)

    def names(self) -> list[str]:
        """The methods that are served, as their plugins spell them."""
        found = dict.fromkeys(r.name for r in registry.records(QUANTIZERS))
        return [name for name in found if self.serves(name)]


def own_method(raw: Mapping[str, Any]) -> str | None:
    """The name under which `transformers` itself has the method of a config, if it has it."""
    if raw.get("load_in_8bit") or raw.get("load_in_4bit"):
        return "bitsandbytes_4bit" if raw.get("load_in_4bit") else "bitsandbytes_8bit"
    name: Any = raw.get("quant_method")
    return name if name in {*auto.AUTO_QUANTIZER_MAPPING, "bitsandbytes"} else None


def _keys(argument: str, names: str | Iterable[str]) -> dict[str, str]:
    found = {}
    for name in [names] if isinstance(names, str) else names:
        key = method_key(name)
        if key is None:
            raise ConfigError(
                f"{argument}={shown(name)}: expected names of methods", field=argument, value=name
            )
        found[key] = name
    return found


def _family(key: str) -> set[str]:
    """All names of the plugin that provides a name: `gptq_v2` is another of `gptq`."""
    records = registry.records(QUANTIZERS)
    sources = {(r.distribution, r.value) for r in records if method_key(r.name) == key}
    names = {method_key(r.name) for r in records if (r.distribution, r.value) in sources}
    return {key, *(name for name in names if name is not None)}


def _transformers_names() -> list[str]:
    return [method.value for method in QuantizationMethod]
