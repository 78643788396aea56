"""`QuantizationConfig`: the settings of one quantization method, typed and validated."""

from __future__ import annotations

import copy
import dataclasses
import enum
import json
import logging
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from quantload.config.dtypes import DtypeField, dtype_name, is_torch_dtype
from quantload.config.fields import validate
from quantload.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

_reported: set[tuple[str, str]] = set()


def plain(value: Any) -> Any:
    """`value` as JSON would hold it: enums as their values, dtypes as their names."""
    if isinstance(value, enum.Enum):
        return value.value
    if is_torch_dtype(value):
        return dtype_name(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value


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

    def __post_init__(self) -> None:
        hints = _type_hints(type(self))
        for spec in dataclasses.fields(self):
            if not isinstance(_descriptor(type(self), spec.name), DtypeField):
                value = getattr(self, spec.name)
                validate(type(self).__name__, spec.name, value, hints[spec.name], spec.metadata)
        self.check()

    def check(self) -> None:
        """Override to refuse fields that contradict each other, with a `ConfigError`."""

    @classmethod
    def normalize(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Turn every spelling found in the wild into this class's fields.

        This is the one place where a method's old spellings are known.

        Args:
            raw: a copy of the dict as found, without `quant_method`; may be changed.
        """
        return raw

    # -- reading -----------------------------------------------------------------

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **overrides: Any) -> Self:
        """Build from a dict; `overrides` replace its entries.

        Raises:
            ConfigError: a value is of the wrong type, out of range or contradictory.
        """
        raw = plain({**config_dict, **overrides})
        raw.pop("quant_method", None)
        fields = cls.normalize(raw)
        known = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        extra = {k: v for k, v in fields.items() if k not in known}
        for key in sorted(extra):
            if (cls.__qualname__, key) not in _reported:
                _reported.add((cls.__qualname__, key))
                logger.warning(
                    "%s does not know the key %r; it is kept as it is", cls.__name__, key
                )
        return cls(**{k: v for k, v in fields.items() if k in known}, extra=extra)

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str]) -> Self:
        """Build from a JSON file.

        Raises:
            ConfigError: the file is not JSON or not an object.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise ConfigError(f"{path}: not a readable JSON file ({error})") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: expected a JSON object, found {type(data).__name__}")
        return cls.from_dict(data)

    # -- writing -----------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Every field, `quant_method` and the unknown keys, as JSON holds them."""
        values = {
            f.name: copy.deepcopy(plain(self.__dict__[f.name]))
            for f in dataclasses.fields(self)
            if f.name != "extra"
        }
        return {"quant_method": self.quant_method, **values, **copy.deepcopy(plain(self.extra))}

    def to_diff_dict(self) -> dict[str, Any]:
        """`quant_method` and what differs from the class's defaults."""
        defaults = default_values(type(self))
        return {
            k: v
            for k, v in self.to_dict().items()
            if k == "quant_method" or k not in defaults or defaults[k] != v
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """As JSON text, sorted; with `use_diff` only what differs from the defaults."""
        data = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(data, indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write every field as JSON."""
        Path(json_file_path).write_text(self.to_json_string(use_diff=False), encoding="utf-8")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated anew."""
        values = {f.name: self.__dict__[f.name] for f in dataclasses.fields(self)}
        return type(self)(**{**values, **changes})

    # -- what a caller may say while loading --------------------------------------

    @classmethod
    def loading_fields(cls) -> frozenset[str]:
        """Fields that a caller may override while loading."""
        return _fields_marked(cls, "loading")

    @classmethod
    def inert_fields(cls) -> frozenset[str]:
        """Fields without effect on reading a checkpoint."""
        return _fields_marked(cls, "inert")

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


_hints: dict[type, dict[str, Any]] = {}


def _type_hints(cls: type) -> dict[str, Any]:
    if cls not in _hints:
        _hints[cls] = typing.get_type_hints(cls)
    return _hints[cls]
