"""`AutoQuantizationConfig`: from a dict, an object or a folder to a typed config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantload.config.base import QuantizationConfig
from quantload.config.merge import merge
from quantload.config.plain import plain
from quantload.config.stored import config_in, stored_config
from quantload.errors import CheckpointError, ConfigError, UnknownMethodError
from quantload.registry import Resolved, registry
from quantload.registry.known import known_distribution
from quantload.registry.policy import permitted
from quantload.registry.records import CONFIG_KEYS, method_key
from quantload.verdict import Verdict

FETCHING = frozenset({"revision", "subfolder", "token", "cache_dir", "local_files_only"})
"""What `from_pretrained` hands on to the hub."""


def as_dict(config: object) -> dict[str, Any]:
    """A config of any kind as a plain dict.

    Args:
        config: a mapping, a quantload config, or any object with `to_dict()` (the
            config classes of `transformers` among them).

    Raises:
        ConfigError: it is none of these.
    """
    found = config
    to_dict = getattr(config, "to_dict", None)
    if not isinstance(config, (Mapping, type)) and callable(to_dict):
        try:
            found = to_dict()
        except Exception as error:
            raise ConfigError(
                f"{type(config).__name__}.to_dict() failed: {type(error).__name__}: {error}",
                value=config,
            ) from error
    if isinstance(found, Mapping):
        return dict(plain(found))
    raise ConfigError(
        f"expected a quantization config (a dict, a config object, or anything with to_dict()), "
        f"found {config!r}",
        value=config,
    )


def method_of(raw: Mapping[str, Any]) -> str:
    """The method a config dict is for: its `quant_method`, else the owner of its keys.

    Newer writers call it `method`, which counts where nothing else tells.

    Raises:
        UnknownMethodError: it names none and no installed plugin owns its keys.
    """
    method = raw.get("quant_method")
    if method is None:
        method = registry.method_for_keys(raw)
    if method is None:
        method = raw.get("method")
    if method is None:
        raise UnknownMethodError(_no_method(raw))
    if not isinstance(method, str):
        raise ConfigError(
            f"quant_method: found {method!r}, expected a string", field="quant_method", value=method
        )
    return method


def _no_method(raw: Mapping[str, Any]) -> str:
    if isinstance(raw.get("quantization_config"), Mapping):
        return (
            "this is the config of a whole model; pass its 'quantization_config', "
            "or the folder to from_pretrained()"
        )
    written = {key for key, value in raw.items() if value not in (None, False)}
    forbidden = {
        verdict.reason
        for record in registry.records(CONFIG_KEYS)
        if record.name in written and not (verdict := permitted(record))
    }
    owners = {known_distribution(CONFIG_KEYS, key) for key in written} - {None}
    hint = "; add quant_method"
    if forbidden:
        hint = f"; their owner may not be loaded: {', '.join(sorted(forbidden))}"
    elif owners:
        hint = f"; install what owns them: pip install {' '.join(sorted(filter(None, owners)))}"
    keys = ", ".join(sorted(raw)) or "no keys at all"
    return (
        f"the quantization config has no quant_method and no installed plugin owns its keys "
        f"({keys}){hint}"
    )


def _completed(raw: Mapping[str, Any], stored: QuantizationConfig) -> dict[str, Any]:
    """A dict that goes with a checkpoint, with the method and the fields that it left out."""
    found, fields = dict(raw), stored.stored_values()
    if "quant_method" not in found and found.keys() <= fields.keys():
        found["quant_method"] = stored.quant_method
    if method_key(method_of(found)) != method_key(stored.quant_method):
        return found
    try:
        stored.from_dict(found)
    except ConfigError:  # too little is said, or something wrong, which is wrong below, too
        said = stored.normalize(dict(plain(found)))
        return {**{n: v for n, v in stored.to_dict().items() if n not in said}, **found}
    return found


def resolve_config(
    config: object, provider: str | None = None
) -> tuple[Resolved, QuantizationConfig, frozenset[str]]:
    """The plugin for a config, the typed config, and the fields written out in it.

    A foreign object dumps every field it has, so none of them counts as written out.
    """
    if isinstance(config, QuantizationConfig):
        found = registry.resolve(config.quant_method, provider)
        expected = found.config_class
        if isinstance(config, expected):
            return found, config, config.given()
        # made by hand, or by another provider of the method
        return found, expected.from_dict(config.to_dict()), config.given()
    raw = as_dict(config)
    found = registry.resolve(method_of(raw), provider)
    typed = found.config_class.from_dict(raw)
    return found, typed, typed.given() if isinstance(config, Mapping) else frozenset()


class AutoQuantizationConfig:
    """Finds the config class of a method and builds it. Not instantiated."""

    @classmethod
    def from_dict(
        cls, quantization_config_dict: object, *, provider: str | None = None
    ) -> QuantizationConfig:
        """The typed config for a dict or for any object with `to_dict()`.

        Args:
            quantization_config_dict: the config as found.
            provider: the distribution to take where several provide the method.

        Raises:
            UnknownMethodError, PluginError: the method cannot be resolved.
            ConfigError: the config is wrong.
        """
        return resolve_config(quantization_config_dict, provider)[1]

    from_config = from_dict

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> QuantizationConfig:
        """The typed config of a checkpoint folder or hub repository.

        Args:
            pretrained_model_name_or_path: folder, or name on the hub.
            **kwargs: `provider`, and what fetching needs (`revision`, `subfolder`,
                `token`, `cache_dir`, `local_files_only`).

        Raises:
            CheckpointError: there is no quantization config, or it cannot be read.
            UnknownMethodError, PluginError: the method cannot be resolved.
            ConfigError: the config is wrong.
        """
        provider = kwargs.pop("provider", None)
        unknown = ", ".join(sorted(set(kwargs) - FETCHING))
        if unknown:
            raise TypeError(f"from_pretrained() got unexpected keyword arguments: {unknown}")
        raw = _stored(pretrained_model_name_or_path, kwargs)
        if raw is None:
            raise CheckpointError(
                f"{pretrained_model_name_or_path}: no quantization config found (config.json has "
                f"no quantization_config); the checkpoint is not quantized"
            )
        return cls.from_dict(raw, provider=provider)

    @classmethod
    def merge_quantization_configs(
        cls,
        quantization_config: object,
        quantization_config_from_args: object | None,
        *,
        provider: str | None = None,
    ) -> QuantizationConfig:
        """The stored config with what the caller may override; see `quantload.config.merge`.

        Args:
            quantization_config: what the checkpoint carries.
            quantization_config_from_args: what the caller passed, if anything. A dict may
                leave out all that the checkpoint says.
            provider: the distribution to take where several provide the method.

        Raises:
            ConfigError: the caller's contradicts what describes the bytes.
        """
        stored = cls.from_dict(quantization_config, provider=provider)
        passed_on = quantization_config_from_args
        if passed_on is None:
            return stored
        if isinstance(passed_on, Mapping):
            passed_on = _completed(passed_on, stored)
        _, passed, explicit = resolve_config(passed_on, provider)
        return merge(stored, passed, explicit)

    @staticmethod
    def supports_quant_method(quantization_config_dict: object) -> Verdict:
        """Whether an installed plugin takes this config; the reason where none does."""
        from quantload.errors import QuantloadError

        try:
            registry.resolve(method_of(as_dict(quantization_config_dict)))
        except QuantloadError as error:
            return Verdict.no(str(error))
        return Verdict.yes()


def _stored(source: str | os.PathLike[str], fetch: dict[str, Any]) -> dict[str, Any] | None:
    path = Path(source).expanduser()
    if path.is_file():
        from quantload.checkpoint import open_checkpoint

        with open_checkpoint(path) as opened:  # a format may carry a config of its own
            return config_in(opened.config(), str(path)) or stored_config(path.parent)
    if not path.is_dir():
        from quantload.checkpoint import resolve_source

        return stored_config(resolve_source(str(source), weights=False, **fetch))
    folder = path / (fetch.get("subfolder") or "")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    return stored_config(folder)
