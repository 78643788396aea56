"""`HqqConfig`: flat for people, nested as `transformers` and `hqq` write it in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantload.plugin import ConfigError, QuantizationConfig, option

BITS = (1, 1.58, 2, 3, 4, 5, 6, 8)
WEIGHT_PARAMS = ("nbits", "group_size", "axis", "view_as_float", "optimize", "round_zero")


def _is_layers(value: Mapping[str, Any]) -> bool:
    return all(isinstance(layer, Mapping) and not set(layer) - _LAYER for layer in value.values())


_LAYER = {*WEIGHT_PARAMS, "channel_wise"}


@dataclass(frozen=True, kw_only=True)
class HqqConfig(QuantizationConfig):
    """How groups of weights are quantized.

    The tensors of a checkpoint say all of this themselves; the settings are for quantizing.

    Attributes:
        nbits: bits of a code; 1.58 are three values.
        group_size: weights that share a scale and a zero-point, a multiple of 8; None means
            a whole row (`axis` 1) or column (`axis` 0).
        axis: 1 groups along a row, which all kernels for group-wise integers run; 0 groups
            rows that lie apart.
        view_as_float: write the codes under a float dtype, as training in shards wants it.
        optimize: fit the zero-points; without, they are rounded to nearest.
        round_zero: start from whole zero-points; with 4 bits where None.
        skip_modules: names of layers that stay float.
        dynamic_config: settings by the tag of a layer ("self_attn.q_proj"), in place of all
            of the above; layers without a tag stay float.
    """

    quant_method = "hqq"

    nbits: float = option(4, choices=BITS)
    group_size: int | None = option(
        64, check=lambda n: n > 0 and n % 8 == 0, allowed="a multiple of 8, or None"
    )
    axis: int = option(1, choices=(0, 1))
    view_as_float: bool = False
    optimize: bool = option(True, inert=True)
    round_zero: bool | None = option(None, inert=True)
    skip_modules: list[str] = option(default_factory=lambda: ["lm_head"])
    dynamic_config: dict[str, dict[str, Any]] | None = option(
        None, check=_is_layers, allowed="a dict of dicts with " + ", ".join(sorted(_LAYER))
    )

    @classmethod
    def normalize(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """`quant_config` as it is stored becomes the flat fields, or `dynamic_config`."""
        if "quant_config" not in raw:
            return raw
        stored = raw.pop("quant_config")
        if not isinstance(stored, Mapping):
            raise ConfigError(
                f"HqqConfig.quant_config: found {stored!r}, expected a dict with "
                f"weight_quant_params, or a dict of such dicts by layer",
                field="quant_config",
                value=stored,
            )
        if "weight_quant_params" in stored:
            return {**_flat(stored), **raw}
        return {"dynamic_config": {tag: _flat(layer) for tag, layer in stored.items()}, **raw}

    def check(self) -> None:
        """Every layer of `dynamic_config` is a config of its own."""
        for settings in (self.dynamic_config or {}).values():
            type(self)(**{k: v for k, v in settings.items() if k in WEIGHT_PARAMS})

    def to_dict(self) -> dict[str, Any]:
        """In the nested form, which other readers of HQQ checkpoints know."""
        written = super().to_dict()
        flat = {name: written.pop(name) for name in WEIGHT_PARAMS}
        layers = written.pop("dynamic_config")
        if layers is None:
            return {**written, "quant_config": _nested(flat)}
        return {**written, "quant_config": {tag: _nested(layer) for tag, layer in layers.items()}}

    def settings_for(self, module: str) -> HqqConfig | None:
        """The settings of one layer; None where it stays float."""
        if self.dynamic_config is None:
            return self
        tag = ".".join(
            p for p in module.split(".") if p not in ("model", "layers") and not p.isdigit()
        )
        found = self.dynamic_config.get(tag)
        if found is None:
            return None
        return type(self)(**{k: v for k, v in found.items() if k in WEIGHT_PARAMS})


def _flat(stored: object) -> dict[str, Any]:
    params = stored.get("weight_quant_params") if isinstance(stored, Mapping) else None
    if not isinstance(params, Mapping):
        raise ConfigError(
            f"HqqConfig.quant_config: found {stored!r}, expected a dict with weight_quant_params",
            field="quant_config",
            value=stored,
        )
    if isinstance(stored, Mapping):
        for key in ("scale_quant_params", "zero_quant_params"):
            if stored.get(key):
                raise ConfigError(
                    f"HqqConfig.quant_config.{key}: scales and zero-points that are quantized "
                    f"themselves cannot be stored in safetensors files, and are not read",
                    field="quant_config",
                    value=stored[key],
                )
    if params.get("channel_wise") is False:
        raise ConfigError(
            "HqqConfig.quant_config: channel_wise=False (one scale for a whole weight) is not read",
            field="quant_config",
            value=False,
        )
    return {name: params[name] for name in WEIGHT_PARAMS if name in params}


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    params = {"channel_wise": True, **{name: flat[name] for name in WEIGHT_PARAMS if name in flat}}
    return {
        "weight_quant_params": params,
        "scale_quant_params": None,
        "zero_quant_params": None,
        "offload_meta": False,
    }
