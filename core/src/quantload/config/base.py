"""`QuantizationConfig`: the settings of one quantization method, typed and validated."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from quantload.config.dtypes import DtypeField
from quantload.config.fields import allowed_values, validate
from quantload.config.hints import type_hints
from quantload.config.plain import plain, restored
from quantload.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

_reported: set[tuple[str, str, str]] = set()


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """Base of every config class. Subclasses are frozen, keyword-only dataclasses.

    A subclass sets `quant_method`, annotates its fields (made with `option` where
    a default is not enough) and may override `normalize` and `check`.

    Attributes:
        extra: keys that the class does not know; they survive a round trip.
    """

    quant_method: ClassVar[str] = ""

    extra: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember which fields were written out; see `given`."""
        self = super().__new__(cls)
        object.__setattr__(self, "_given", frozenset(kwargs))
        return self

    def __post_init__(self) -> None:
        cls = type(self)
        _refuse_undecorated(cls)
        hints = type_hints(cls)
        for spec in dataclasses.fields(self):
            if not isinstance(_descriptor(cls, spec.name), DtypeField):
                value = getattr(self, spec.name)
                validate(cls.__name__, spec.name, value, hints[spec.name], spec.metadata)
        names = {f.name for f in dataclasses.fields(self)} - {"extra"} | {"quant_method"}
        for key in sorted(names & set(self.extra)):
            raise ConfigError(
                f"{cls.__name__}.extra: {key!r} is a field of its own", field=key, value=self.extra
            )
        self.check()

    def check(self) -> None:
        """Override to refuse fields that contradict each other, with a `ConfigError`."""

    @classmethod
    def normalize(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Turn every spelling found in the wild into this class's fields.

        This is the one place where a method's old spellings are known.

        Args:
            raw: a copy of the dict as found, `quant_method` as it is spelled there
                included; may be changed.

        Returns:
            The fields; what is no field of the class is kept in `extra`.
        """
        return raw

    # -- reading -----------------------------------------------------------------

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **overrides: Any) -> Self:
        """Build from a dict; `overrides` replace its entries.

        Raises:
            ConfigError: a value is of the wrong type, out of range or contradictory.
        """
        if not isinstance(config_dict, Mapping):
            raise ConfigError(
                f"{cls.__name__}.from_dict: expected a dict, found {config_dict!r}",
                value=config_dict,
            )
        _refuse_undecorated(cls)
        found = dict(cls.normalize(plain({**config_dict, **overrides})))
        found.pop("quant_method", None)
        hints, fields = type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}
        del fields["extra"]
        for name, spec in fields.items():
            if name not in found and not _has_default(spec):
                allowed = allowed_values(hints[name], spec.metadata)
                raise ConfigError(
                    f"{cls.__name__}.{name} is missing; expected {allowed}",
                    field=name,
                    allowed=allowed,
                )
        extra = {k: v for k, v in found.items() if k not in fields}
        _report_once(cls, extra)
        known = {k: restored(v, hints[k]) for k, v in found.items() if k in fields}
        return cls(**known, extra=extra)

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str]) -> Self:
        """Build from a JSON file.

        Raises:
            ConfigError: the file is not JSON or not an object.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise ConfigError(f"{path}: not a readable JSON file ({error})") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: expected a JSON object, found {type(data).__name__}")
        return cls.from_dict(data)

    # -- writing -----------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Every field, `quant_method` and the unknown keys, as JSON holds them."""
        values = plain(self.stored_values())
        extra = values.pop("extra")
        return copy.deepcopy({"quant_method": self.quant_method, **values, **extra})

    def to_diff_dict(self) -> dict[str, Any]:
        """`quant_method` and what differs from the class's defaults."""
        defaults = default_values(type(self))
        return {
            k: v
            for k, v in self.to_dict().items()
            if k == "quant_method" or k not in defaults or defaults[k] != v
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """As JSON text, sorted; with `use_diff` only what differs from the defaults.

        Raises:
            ConfigError: an unknown key holds something that JSON cannot.
        """
        data = self.to_diff_dict() if use_diff else self.to_dict()
        try:
            return json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{type(self).__name__} cannot be written as JSON: {error}", value=data
            ) from error

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write every field as JSON."""
        Path(json_file_path).write_text(self.to_json_string(use_diff=False), encoding="utf-8")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated anew."""
        copied = type(self)(**{**self.stored_values(), **changes})
        object.__setattr__(copied, "_given", self.given() | frozenset(changes))
        return copied

    def stored_values(self) -> dict[str, Any]:
        """Field -> value as it is kept (a dtype by its name)."""
        own = self.__dict__
        return {
            f.name: own[f.name] if f.name in own else getattr(self, f.name)
            for f in dataclasses.fields(self)
        }

    # -- what a caller may say while loading --------------------------------------

    @classmethod
    def loading_fields(cls) -> frozenset[str]:
        """Fields that a caller may override while loading."""
        return _fields_marked(cls, "loading")

    @classmethod
    def inert_fields(cls) -> frozenset[str]:
        """Fields without effect on reading a checkpoint."""
        return _fields_marked(cls, "inert")

    def given(self) -> frozenset[str]:
        """The fields that were written out when this was made, defaults or not."""
        written: frozenset[str] = self.__dict__["_given"]
        return written

    def get_loading_attributes(self) -> dict[str, Any]:
        """The values of `loading_fields()`."""
        return {name: getattr(self, name) for name in sorted(self.loading_fields())}

    def __iter__(self) -> typing.Iterator[tuple[str, Any]]:
        """`dict(config)` gives `to_dict()`."""
        return iter(self.to_dict().items())


QuantizationConfigMixin = QuantizationConfig
"""The name `transformers` has for the base of its config classes."""


def default_values(cls: type[QuantizationConfig]) -> dict[str, Any]:
    """The default of every field that has one, as `to_dict` would write it."""
    defaults: dict[str, Any] = {}
    for spec in dataclasses.fields(cls):
        if spec.default is not dataclasses.MISSING:
            defaults[spec.name] = plain(spec.default)
        elif spec.default_factory is not dataclasses.MISSING:
            defaults[spec.name] = plain(spec.default_factory())
    return defaults


def _has_default(spec: dataclasses.Field[Any]) -> bool:
    factory = spec.default_factory
    return spec.default is not dataclasses.MISSING or factory is not dataclasses.MISSING


def _report_once(cls: type, extra: Mapping[str, Any]) -> None:
    for key in sorted(extra):
        told = (cls.__module__, cls.__qualname__, key)
        if told not in _reported:
            _reported.add(told)
            logger.warning("%s does not know the key %r; it is kept as it is", cls.__name__, key)


def undecorated(cls: type[QuantizationConfig]) -> type | None:
    """The class in the line of `cls` that declares fields and is no dataclass, or None."""
    for base in cls.__mro__:
        own = vars(base).get("__annotations__", {})
        declares = any("ClassVar" not in str(hint) for hint in own.values())
        if declares and "__dataclass_fields__" not in vars(base):
            return base
    return None


def _refuse_undecorated(cls: type[QuantizationConfig]) -> None:
    culprit = undecorated(cls)
    if culprit is not None:
        raise ConfigError(
            f"{culprit.__module__}.{culprit.__qualname__} declares fields and is no dataclass; put "
            f"@dataclass(frozen=True, kw_only=True) above it"
        )


def _fields_marked(cls: type[QuantizationConfig], mark: str) -> frozenset[str]:
    marked = set()
    for spec in dataclasses.fields(cls):
        descriptor = _descriptor(cls, spec.name)
        if isinstance(descriptor, DtypeField):
            if getattr(descriptor, mark):
                marked.add(spec.name)
        elif spec.metadata.get(mark):
            marked.add(spec.name)
    return frozenset(marked)


def _descriptor(cls: type, name: str) -> object:
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
