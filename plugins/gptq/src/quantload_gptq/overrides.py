"""What holds for one module: the config, after the overrides in its `dynamic`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quantload.plugin import ConfigError

if TYPE_CHECKING:
    from quantload_gptq.config import GPTQConfig

_RENAMED = {"checkpoint_format": "format", "w_bit": "bits", "q_group_size": "group_size"}
_TYPES: dict[str, tuple[type, ...]] = {
    "bits": (int,),
    "group_size": (int,),
    "sym": (bool,),
    "desc_act": (bool,),
    "format": (str,),
    "pack_dtype": (str,),
}
_SKIP = "-:"
_TAKE = "+:"


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


def override_for(dynamic: Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
    """The overrides of the first pattern that matches a module; None where it stays float."""
    for pattern, changes in (dynamic or {}).items():
        if re.match(pattern.removeprefix(_SKIP).removeprefix(_TAKE), name):
            return None if pattern.startswith(_SKIP) else _plain(changes)
    return {}


def parameters_for(config: GPTQConfig, name: str) -> Parameters:
    """The parameters of a module. One that is packed has some, whatever `dynamic` skips."""
    changes = override_for(config.dynamic, name) or {}
    values = {
        "bits": config.bits,
        "group_size": config.group_size,
        "sym": config.sym,
        "desc_act": config.desc_act,
        "format": config.checkpoint_format,
        "pack_dtype": config.pack_dtype,
        **{key: value for key, value in changes.items() if key in _TYPES},
    }
    if values["bits"] in (5, 6, 7) and values["format"] != "marlin":
        values["format"] = "gptq_p"
    return Parameters(**values)


def check_dynamic(dynamic: Mapping[str, Any] | None) -> None:
    """Refuse patterns that cannot be matched and overrides that cannot be followed.

    Raises:
        ConfigError: naming the pattern.
    """
    for pattern, changes in (dynamic or {}).items():
        try:
            re.compile(pattern.removeprefix(_SKIP).removeprefix(_TAKE))
        except re.error as error:
            raise _wrong(pattern, pattern, f"a regular expression ({error})") from error
        if changes is not None and not isinstance(changes, Mapping):
            raise _wrong(pattern, changes, "an object with overrides")
        for key, value in _plain(changes).items():
            kinds = _TYPES.get(key)
            if kinds and type(value) not in kinds:
                raise _wrong(f"{pattern}.{key}", value, kinds[0].__name__)
            if key == "bits" and not 2 <= value <= 8:
                raise _wrong(f"{pattern}.bits", value, "a whole number from 2 to 8")
            if key == "group_size" and value != -1 and value <= 0:
                raise _wrong(f"{pattern}.group_size", value, "a positive whole number, or -1")


def _plain(changes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {_RENAMED.get(key, key): value for key, value in (changes or {}).items()}


def _wrong(where: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(
        f"GPTQConfig.dynamic: {where}: found {value!r}, expected {allowed}",
        field="dynamic",
        value=value,
        allowed=allowed,
    )
