"""`AutoQuantizationConfig`: from a dict, an object or a folder to a typed config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantload.config.base import QuantizationConfig, plain
from quantload.config.merge import merge
from quantload.config.stored import stored_config
from quantload.errors import CheckpointError, ConfigError, UnknownMethodError
from quantload.registry import Resolved, registry
from quantload.registry.known import known_distribution
from quantload.registry.records import CONFIG_KEYS
from quantload.verdict import Verdict


def as_dict(config: object) -> dict[str, Any]:
    """A config of any kind as a plain dict.

    Args:
        config: a mapping, a quantload config, or any object with `to_dict()` (the
            config classes of `transformers` among them).

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(config, Mapping):
        return dict(plain(config))
    to_dict = getattr(config, "to_dict", None)
    if callable(to_dict) and not isinstance(config, type):
        found = to_dict()
        if isinstance(found, Mapping):
            return dict(plain(found))
    raise ConfigError(
        f"expected a quantization config (a dict, a config object, or anything with to_dict()), "
        f"found {config!r}",
        value=config,
    )


def method_of(raw: Mapping[str, Any]) -> str:
    """The method a config dict is for: its `quant_method`, else the owner of its keys.

    Raises:
        UnknownMethodError: it names none and no installed plugin owns its keys.
    """
    method = raw.get("quant_method")
    if method is None:
        method = registry.method_for_keys(raw)
    if method is None:
        keys = ", ".join(sorted(raw)) or "no keys at all"
        owners = {known_distribution(CONFIG_KEYS, k) for k in raw if raw[k] not in (None, False)}
        install = " ".join(sorted(o for o in owners if o))
        hint = f"; install what owns them: pip install {install}" if install else ""
        raise UnknownMethodError(
            f"the quantization config has no quant_method and no installed plugin owns its keys "
            f"({keys}){hint}"
        )
    if not isinstance(method, str):
        raise ConfigError(
            f"quant_method: found {method!r}, expected a string", field="quant_method", value=method
        )
    return method


def resolve_config(
    config: object, provider: str | None = None
) -> tuple[Resolved, QuantizationConfig, frozenset[str]]:
    """The plugin for a config, the typed config, and the keys written out in it."""
    if isinstance(config, QuantizationConfig):
        return registry.resolve(config.quant_method, provider), config, frozenset()
    raw = as_dict(config)
    found = registry.resolve(method_of(raw), provider)
    explicit = frozenset(raw) if isinstance(config, Mapping) else frozenset()
    typed = found.config_class.from_dict(raw)
    return found, typed, explicit


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
            CheckpointError: there is no quantization config.
        """
        provider = kwargs.pop("provider", None)
        folder = _folder(pretrained_model_name_or_path, kwargs)
        raw = stored_config(folder)
        if raw is None:
            raise CheckpointError(
                f"{folder}: no quantization config found (config.json has no "
                f"quantization_config); the checkpoint is not quantized"
            )
        return cls.from_dict(raw, provider=provider)

    @classmethod
    def merge_quantization_configs(
        cls, quantization_config: object, quantization_config_from_args: object | None
    ) -> QuantizationConfig:
        """The stored config with what the caller may override; see `quantload.config.merge`."""
        stored = cls.from_dict(quantization_config)
        if quantization_config_from_args is None:
            return stored
        _, passed, explicit = resolve_config(quantization_config_from_args)
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


def _folder(source: str | os.PathLike[str], kwargs: dict[str, Any]) -> Path:
    path = Path(source)
    subfolder = kwargs.get("subfolder")
    if path.is_dir():
        return path / subfolder if subfolder else path
    from quantload.checkpoint import resolve_source

    return Path(resolve_source(str(source), weights=False, **kwargs))
