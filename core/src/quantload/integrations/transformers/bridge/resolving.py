"""What stands in for the resolution of configs and quantizers in `transformers`.

Each function takes the choice in effect and the original, which serves what stays with
`transformers`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from quantload.config.auto import FETCHING, AutoQuantizationConfig, as_dict, method_of
from quantload.config.base import QuantizationConfig
from quantload.errors import QuantloadError, UnknownMethodError
from quantload.integrations.transformers.bridge.choice import Choice, own_method
from quantload.integrations.transformers.bridge.onefile import without_loading_options
from quantload.integrations.transformers.bridge.quantizer import BridgedQuantizer
from quantload.registry import registry
from quantload.verdict import Verdict

Original = Callable[..., Any]


class BridgedConfig:
    """Stands in `transformers`' mapping of config classes; makes configs of the plugins."""

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **overrides: Any) -> QuantizationConfig:
        """The typed config of the plugin that serves the method."""
        return AutoQuantizationConfig.from_dict({**config_dict, **overrides})


def mapped() -> tuple[type, type]:
    """What the mappings of quantizers and of configs hold for every method that is served."""
    return BridgedQuantizer, BridgedConfig


def config_from_dict(choice: Choice, original: Original, quantization_config_dict: Any) -> Any:
    """`AutoQuantizationConfig.from_dict`."""
    if _ours(choice, quantization_config_dict):
        return AutoQuantizationConfig.from_dict(quantization_config_dict)
    return original(quantization_config_dict)


def config_from_pretrained(
    choice: Choice,
    original: Original,
    pretrained_model_name_or_path: str | os.PathLike[str],
    **kwargs: Any,
) -> Any:
    """`AutoQuantizationConfig.from_pretrained`."""
    fetch = {name: value for name, value in kwargs.items() if name in FETCHING}
    try:
        found = AutoQuantizationConfig.from_pretrained(pretrained_model_name_or_path, **fetch)
    except QuantloadError:
        # What is kept may have no plugin here, and the original says what it misses.
        return original(pretrained_model_name_or_path, **kwargs)
    if not choice.serves(found.quant_method):
        return original(pretrained_model_name_or_path, **kwargs)
    return found


def quantizer_from_config(
    choice: Choice, original: Original, quantization_config: Any, **kwargs: Any
) -> Any:
    """`AutoHfQuantizer.from_config`."""
    if _ours(choice, quantization_config):
        return BridgedQuantizer(without_loading_options(quantization_config), **kwargs)
    return original(quantization_config, **kwargs)


def merge(
    choice: Choice,
    original: Original,
    quantization_config: Any,
    quantization_config_from_args: Any,
) -> Any:
    """`AutoHfQuantizer.merge_quantization_configs`."""
    if _ours(choice, quantization_config):
        passed = quantization_config_from_args
        if passed is not None:
            passed = without_loading_options(passed)
        return AutoQuantizationConfig.merge_quantization_configs(quantization_config, passed)
    return original(quantization_config, quantization_config_from_args)


def supports(choice: Choice, original: Original, quantization_config_dict: Any) -> bool:
    """`AutoHfQuantizer.supports_quant_method`, which never answers no.

    Raises:
        UnknownMethodError: neither an installed plugin nor `transformers` has the method.
    """
    if _ours(choice, quantization_config_dict):
        return True
    return bool(original(as_dict(quantization_config_dict)))


def quant_method(quantizer: Any) -> str:
    """`HfQuantizer.quant_method` of a quantizer of `transformers`' own."""
    name = quantizer.quantization_config.quant_method
    return str(getattr(name, "value", name))


def is_available(quantizer: Any) -> Verdict:
    """`HfQuantizer.is_available` of a quantizer of `transformers`' own.

    It asks what the quantizer asks before it loads a model.
    """
    try:
        quantizer.validate_environment(device_map=None, weights_only=True)
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        return Verdict.no(str(error))
    return Verdict.yes()


def _ours(choice: Choice, config: Any) -> bool:
    """Whether a config is for a method that the bridge serves.

    Raises:
        UnknownMethodError, ConfigError: nobody has its method.
    """
    raw = as_dict(config)
    own = own_method(raw)
    try:
        method = method_of(raw)
    except QuantloadError:
        if own is None:
            raise
        return False
    if choice.serves(method):
        return True
    if own is None:
        registry.resolve(method)  # raises where it is not installed
        raise UnknownMethodError(
            f"transformers has no method {method!r}, and quantload was told to leave it alone: "
            f"mend only= or keep= of enable_transformers"
        )
    return False
