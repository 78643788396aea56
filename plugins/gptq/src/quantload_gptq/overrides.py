"""What holds for one module: the config, after the overrides in its `dynamic`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quantload.quantizers.overrides import check_overrides, override_for

if TYPE_CHECKING:
    from quantload_gptq.config import GPTQConfig

FORMATS = ("gptq", "gptq_v2", "gptq_p", "marlin")
WORDS = ("int32", "int16", "int8")
PLANAR_ONLY = (5, 6, 7)
"""Widths that no layout but `gptq_p` has."""

_RENAMED = {"checkpoint_format": "format", "w_bit": "bits", "q_group_size": "group_size"}
_TYPES: dict[str, type] = {
    "bits": int,
    "group_size": int,
    "sym": bool,
    "desc_act": bool,
    "format": str,
    "pack_dtype": str,
}


@dataclasses.dataclass(frozen=True)
class Parameters:
    """What is said of one module.

    Attributes:
        bits: bits of a code.
        group_size: columns of a group, or -1.
        sym: every zero-point is `2**(bits - 1)`.
        desc_act: quantized in the order of activation sizes.
        format: the layout; "gptq_p" wherever no other has the width.
        pack_dtype: name of the dtype of words that are to be written.
    """

    bits: int
    group_size: int
    sym: bool
    desc_act: bool
    format: str
    pack_dtype: str

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Parameters | None:
        """Those that a claim found for a module; None where `params` are not such."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not params.keys() >= set(names):
            return None
        return cls(**{name: params[name] for name in names})


def parameters_for(config: GPTQConfig, name: str) -> Parameters:
    """The parameters of a module. One that is packed has some, whatever `dynamic` skips."""
    changes = _plain(override_for(config.dynamic, name))
    values = {
        "bits": config.bits,
        "group_size": config.group_size,
        "sym": config.sym,
        "desc_act": config.desc_act,
        "format": config.checkpoint_format,
        "pack_dtype": config.pack_dtype,
        **{key: value for key, value in changes.items() if key in _TYPES},
    }
    if values["bits"] in PLANAR_ONLY and values["format"] != "marlin":
        values["format"] = "gptq_p"
    return Parameters(**values)


def check_dynamic(dynamic: Mapping[str, Any] | None) -> None:
    """Refuse patterns that cannot be matched and overrides that cannot be followed.

    Raises:
        ConfigError: naming the pattern.
    """
    check_overrides("GPTQConfig", dynamic, _allowed)


def _allowed(key: str, value: Any) -> str | None:
    name = _RENAMED.get(key, key)
    kind = _TYPES.get(name)
    if kind is None:
        return None
    other_kind = type(value) is not kind  # a bool is no number here
    if other_kind:
        return kind.__name__
    if name == "bits" and not 2 <= value <= 8:
        return "a whole number from 2 to 8"
    if name == "group_size" and value != -1 and value <= 0:
        return "a positive whole number, or -1"
    if name == "format" and value.lower() not in FORMATS:
        return "one of " + ", ".join(map(repr, FORMATS))
    if name == "pack_dtype" and _word(value) not in WORDS:
        return "one of " + ", ".join(map(repr, WORDS))
    return None


def _plain(changes: Mapping[str, Any] | None) -> dict[str, Any]:
    found = {_RENAMED.get(key, key): value for key, value in (changes or {}).items()}
    if "format" in found:
        found["format"] = found["format"].lower()
    if "pack_dtype" in found:
        found["pack_dtype"] = _word(found["pack_dtype"])
    return found


def _word(name: str) -> str:
    return name.lower().removeprefix("torch.")
