"""`AutoHfQuantizer`: from a config to the quantizer of its method."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from quantload.config.auto import FETCHING, AutoQuantizationConfig, resolve_config
from quantload.errors import PluginLoadError
from quantload.quantizers.base import HfQuantizer

if TYPE_CHECKING:
    from quantload.config.base import QuantizationConfig
    from quantload.verdict import Verdict


class AutoHfQuantizer:
    """Finds the quantizer class of a method and builds it. Not instantiated."""

    @classmethod
    def from_config(
        cls, quantization_config: object, *, provider: str | None = None, **kwargs: Any
    ) -> HfQuantizer:
        """The quantizer for a config.

        Args:
            quantization_config: a quantload config, a dict, or any object with
                `to_dict()` (the config classes of `transformers` among them).
            provider: the distribution to take where several provide the method.
            **kwargs: for the quantizer's constructor (`pre_quantized=`).

        Raises:
            UnknownMethodError, PluginError: the method cannot be resolved.
            ConfigError: the config is wrong.
        """
        found, config, _ = resolve_config(quantization_config, provider)
        quantizer = found.quantizer_class(config, **kwargs)
        if not isinstance(quantizer, HfQuantizer):
            raise PluginLoadError(
                f"{found.record.provider}: {found.plugin.quantizer} should make an HfQuantizer, "
                f"it made a {type(quantizer).__name__}"
            )
        quantizer.plugin = found.plugin
        return quantizer

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> HfQuantizer:
        """The quantizer for a checkpoint folder or hub repository.

        Args:
            pretrained_model_name_or_path: folder, or name on the hub.
            **kwargs: what fetching needs (`revision`, `subfolder`, `token`,
                `cache_dir`, `local_files_only`); the rest is as for `from_config`.
        """
        fetch = {name: kwargs.pop(name) for name in FETCHING if name in kwargs}
        provider = kwargs.get("provider")
        config = AutoQuantizationConfig.from_pretrained(
            pretrained_model_name_or_path, provider=provider, **fetch
        )
        return cls.from_config(config, **kwargs)

    @classmethod
    def merge_quantization_configs(
        cls, quantization_config: object, quantization_config_from_args: object | None
    ) -> QuantizationConfig:
        """The stored config with what the caller may override; see `quantload.config.merge`."""
        return AutoQuantizationConfig.merge_quantization_configs(
            quantization_config, quantization_config_from_args
        )

    @staticmethod
    def supports_quant_method(quantization_config_dict: object) -> Verdict:
        """Whether an installed plugin takes this config; the reason where none does."""
        return AutoQuantizationConfig.supports_quant_method(quantization_config_dict)
