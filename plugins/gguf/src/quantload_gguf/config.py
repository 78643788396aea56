"""`GgufConfig`: which blocks a model is, or is to be, stored in."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from quantload.config.base import QuantizationConfig
from quantload.config.dtypes import DtypeField
from quantload.config.fields import option
from quantload.errors import CheckpointError, ConfigError
from quantload_gguf.ggml import TYPES, ggml_type

WRITABLE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""The types that weights can be quantized to."""

_NAMES = tuple(t.name for t in TYPES if t.decodable)


def _known(name: str) -> bool:
    return name in _NAMES


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufConfig(QuantizationConfig):
    """Settings of the `gguf` method.

    Attributes:
        type: the ggml type of the weights, or to quantize them to ("Q8_0"); None
            where each tensor says its own, as those of a `.gguf` file do.
        types: module name -> type, where it differs from `type`.
        modules_to_not_convert: modules that stay float when quantizing.
        compute_dtype: dtype of products; that of the model where None.
    """

    quant_method: ClassVar[str] = "gguf"

    type: str | None = option(None, check=_known, allowed=f"one of {', '.join(_NAMES)}")
    types: dict[str, str] = option(default_factory=dict)
    modules_to_not_convert: list[str] | None = None
    compute_dtype: Any = DtypeField(None, loading=True)

    @classmethod
    def normalize(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Types by number or in lower case become names; so do other spellings of `type`."""
        for old in ("quant_type", "ggml_type", "qtype"):
            if old in raw:
                raw.setdefault("type", raw.pop(old))
        if isinstance(raw.get("type"), (str, int)):
            raw["type"] = _name(raw["type"], "type")
        if isinstance(raw.get("types"), dict):
            raw["types"] = {k: _name(v, f"types[{k!r}]") for k, v in raw["types"].items()}
        return raw

    def check(self) -> None:
        """Every per-module type is a type of weights."""
        for module, name in self.types.items():
            if name not in _NAMES:
                raise ConfigError(
                    f"GgufConfig.types[{module!r}]: found {name!r}, expected one of "
                    f"{', '.join(_NAMES)}",
                    field="types",
                    value=name,
                    allowed=", ".join(_NAMES),
                )

    def type_of(self, module: str) -> str | None:
        """The type of a module's weight, where the config says."""
        return self.types.get(module, self.type)


def _name(value: Any, field: str) -> Any:
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        return value
    try:
        return ggml_type(value).name
    except CheckpointError as error:
        raise ConfigError(f"GgufConfig.{field}: {error}", field=field, value=value) from error
