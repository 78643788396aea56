"""Merging the config a checkpoint carries with what a caller asks for."""

from __future__ import annotations

import dataclasses
from typing import Any

from quantload.config.base import QuantizationConfig, default_values
from quantload.config.plain import plain
from quantload.errors import ConfigError


def merge(
    stored: QuantizationConfig,
    passed: QuantizationConfig,
    explicit: frozenset[str] = frozenset(),
) -> QuantizationConfig:
    """`stored`, with what `passed` may override.

    The stored config describes the bytes, so it wins. Loading fields of `passed`
    override it where they are given (`explicit`) or differ from the class default.
    Inert fields never conflict, nor does a passed value that equals the default.

    Args:
        stored: from the checkpoint.
        passed: from the caller.
        explicit: fields that the caller wrote out, defaults or not.

    Raises:
        ConfigError: another method, or an explicit, non-default contradiction of a
            field that describes the bytes; both values are named.
    """
    if stored.quant_method != passed.quant_method:
        raise ConfigError(
            f"the checkpoint is quantized with {stored.quant_method!r} and cannot be loaded as "
            f"{passed.quant_method!r}; leave quantization_config out, or load a float checkpoint",
            field="quant_method",
            value=passed.quant_method,
            allowed=repr(stored.quant_method),
        )
    kept = passed.stored_values()  # `to_dict` may leave fields out
    have, want = plain(stored.stored_values()), plain(kept)
    defaults = default_values(type(passed))
    loading = stored.loading_fields() | passed.loading_fields()
    inert = stored.inert_fields() | passed.inert_fields() | {"extra"}
    own = {f.name for f in dataclasses.fields(stored)}
    changes: dict[str, Any] = {}
    for name in (f.name for f in dataclasses.fields(passed) if f.name not in inert):
        value = want[name]
        differs = name not in defaults or value != defaults[name]
        if name in loading:
            if name in own and (differs or name in explicit):
                changes[name] = kept[name]
        elif differs and value != have.get(name):
            raise ConfigError(
                f"{name}: the checkpoint says {have.get(name)!r}, the quantization_config that was "
                f"passed says {value!r}; the bytes are as the checkpoint says, so leave {name} out",
                field=name,
                value=value,
                allowed=repr(have.get(name)),
            )
    return stored.replace(**changes) if changes else stored
