"""`AwqConfig`: every field and every spelling that AWQ checkpoints are described with."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from quantload.plugin import ConfigError, QuantizationConfig, option
from quantload.quantizers.overrides import check_overrides

logger = logging.getLogger("quantload.awq")

VERSIONS = ("gemm", "gemv", "gemv_fast", "llm-awq", "marlin")

_SYNONYMS = {
    "w_bit": "bits",
    "wbits": "bits",
    "q_group_size": "group_size",
    "groupsize": "group_size",
}
_VERSION_KEYS = ("version", "format", "checkpoint_format")
_STORED_AS = {
    "exllama": "gemm",
    "exllama_v2": "gemm",
    "exllamav2": "gemm",
    "ipex": "gemm",
    "llm_awq": "llm-awq",
    "gemv-fast": "gemv_fast",
}
"""Kernels that older configs name as a version, and the layout that they read."""

_DEFAULT_WHERE_NULL = ("bits", "version", "zero_point")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AwqConfig(QuantizationConfig):
    """Settings of AWQ; the fields of the `transformers` class of the same name and more.

    Of other libraries' runtime, without effect here: `do_fuse`, `fuse_max_seq_len`,
    `modules_to_fuse`, `exllama_config`. Written by tools that share them with GPTQ, without
    effect on reading: `sym`, `desc_act`, `damp_percent`, `true_sequential`,
    `act_group_aware`, `dataset`, `tokenizer`, `meta`, `lm_head`, `pack_dtype`. Whatever
    stands in one of these is kept as it is.

    Attributes:
        bits: bits of a weight. Writers other than autoawq have 2 to 8 in `gemm`.
        group_size: columns that share a scale; -1 for whole rows.
        zero_point: zero-points are stored; without, they are `2**(bits - 1)`.
        version: the layout: "gemm", "gemv", "gemv_fast", "llm-awq" or "marlin", in any
            case. Also spelled `format`.
        modules_to_not_convert: modules that stay float.
        dynamic: regular expression -> overrides of `bits`, `group_size` and `zero_point` (or
            `sym`) for the modules whose names it matches from the start; the first that
            matches counts. "-:" in front keeps modules float. GPTQModel writes it.
        backend: "llm-awq" stands for that layout; other values are choices of kernels of
            other libraries, without effect here.
    """

    quant_method: ClassVar[str] = "awq"

    bits: int = option(4, minimum=2, maximum=8)
    group_size: int = option(
        128, check=lambda n: n == -1 or n > 0, allowed="a positive whole number, or -1 for rows"
    )
    zero_point: bool = True
    version: str = option("gemm", choices=VERSIONS)
    modules_to_not_convert: list[str] | None = option(None, inert=True)
    dynamic: dict[str, Any] | None = None
    backend: Any = option(None, loading=True)
    do_fuse: Any = option(None, loading=True)
    fuse_max_seq_len: Any = option(None, loading=True)
    modules_to_fuse: Any = option(None, loading=True)
    exllama_config: Any = option(None, loading=True)
    sym: Any = option(None, inert=True)
    desc_act: Any = option(None, inert=True)
    damp_percent: Any = option(None, inert=True)
    true_sequential: Any = option(None, inert=True)
    act_group_aware: Any = option(None, inert=True)
    dataset: Any = option(None, inert=True)
    tokenizer: Any = option(None, inert=True)
    meta: Any = option(None, inert=True)
    lm_head: Any = option(None, inert=True)
    pack_dtype: Any = option(None, inert=True)

    def check(self) -> None:
        """Refuse layouts that do not have the width.

        Of "marlin" that is not known here: GPTQModel gives that name to layers that it
        stores as `gemm`, of 8 bits and with zero-points, too.
        """
        if self.version not in ("gemm", "marlin") and self.bits != 4:
            raise ConfigError(
                f"AwqConfig.bits: found {self.bits}, expected 4: the {self.version} layout has no "
                f"other width",
                field="bits",
                value=self.bits,
                allowed="4, or version='gemm'",
            )
        check_overrides("AwqConfig", self.dynamic, _allowed)

    @property
    def format(self) -> str:
        """`version`, as `transformers` calls it."""
        return self.version

    @classmethod
    def normalize(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Every spelling found in the wild, as the fields of this class."""
        raw.setdefault("quant_method", raw.pop("method", None))
        fields: dict[str, Any] = {}
        for key, value in raw.items():
            name = _SYNONYMS.get(key, key)
            if name != key and name in raw:
                _same(key, value, name, raw[name])
                continue
            fields[name] = value
        fields["version"] = _version_in(fields)
        if fields.get("zero_point") is None and fields.get("sym") is not None:
            fields["zero_point"] = not fields["sym"]
        if fields["version"] == "marlin" and fields.get("zero_point") is None:
            fields["zero_point"] = False
        if isinstance(fields.get("modules_to_not_convert"), str):
            fields["modules_to_not_convert"] = [fields["modules_to_not_convert"]]
        if fields.get("group_size", 0) is None:
            fields["group_size"] = -1
        for key in _DEFAULT_WHERE_NULL:
            if fields.get(key, 0) is None:
                del fields[key]
        return fields

    def to_dict(self) -> dict[str, Any]:
        """The fields as other readers of AWQ want them; those that are None are left out.

        `modules_to_not_convert` stays, for readers look it up.
        """
        values = {
            key: value
            for key, value in super().to_dict().items()
            if value is not None or key == "modules_to_not_convert"
        }
        return {**values, "format": self.version}

    def to_diff_dict(self) -> dict[str, Any]:
        """What differs from the defaults; "marlin" has another default of `zero_point`."""
        changed = super().to_diff_dict()
        return {**changed, "zero_point": self.zero_point} if self.version == "marlin" else changed


def override_fields(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides in an entry of `dynamic`, as fields of `AwqConfig`."""
    found = {_SYNONYMS.get(key, key): value for key, value in changes.items()}
    if "sym" in found:
        found.setdefault("zero_point", not found["sym"])
    return {key: found[key] for key in _OVERRIDES if key in found}


_OVERRIDES: dict[str, type] = {"bits": int, "group_size": int, "zero_point": bool}


def _allowed(key: str, value: Any) -> str | None:
    """What may stand in an entry of `dynamic`; None where the value does."""
    name = _SYNONYMS.get(key, key)
    kind = bool if name == "sym" else _OVERRIDES.get(name)
    if kind is not None and type(value) is not kind:
        return kind.__name__
    if name == "bits" and not 2 <= value <= 8:
        return "a whole number from 2 to 8"
    if name == "group_size" and value != -1 and value <= 0:
        return "a positive whole number, or -1"
    return None


def _same(key: str, value: Any, name: str, other: Any) -> None:
    if value != other:
        raise ConfigError(
            f"AwqConfig: {key} is {value!r} and {name}, which means the same, is {other!r}",
            field=name,
            value=other,
            allowed=repr(value),
        )


def _version_in(fields: dict[str, Any]) -> str | None:
    """Take the layout out of its many places: `version` wins, then `format`."""
    said = {key: fields.pop(key, None) for key in _VERSION_KEYS}
    if fields.get("backend") == "llm-awq" or fields.get("quant_method") in ("llm-awq", "llm_awq"):
        return "llm-awq"
    found = []
    for key, value in said.items():
        if value is not None:
            lowered = str(value).lower()
            found.append((key, _STORED_AS.get(lowered, lowered)))
    if not found:
        return None
    if len({value for _, value in found}) > 1:
        logger.warning(
            "the AWQ config says %s; %s counts",
            " and ".join(f"{key}={value!r}" for key, value in found),
            found[0][0],
        )
    return found[0][1]
