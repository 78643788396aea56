"""The quantizer of a load: from what the checkpoint says and what the caller asks for."""

from __future__ import annotations

import logging

from quantload.checkpoint.base import Checkpoint
from quantload.config.auto import AutoQuantizationConfig
from quantload.config.stored import config_in, stored_config
from quantload.errors import ConfigError, UnknownMethodError
from quantload.quantizers.auto import AutoHfQuantizer
from quantload.quantizers.base import HfQuantizer

logger = logging.getLogger(__name__)


def find_quantizer(
    checkpoint: Checkpoint, passed: object | None, stored: object | None = None
) -> HfQuantizer | None:
    """The quantizer for a checkpoint; None where neither it nor the caller names a method.

    Args:
        checkpoint: the open checkpoint.
        passed: the caller's config, of any kind that can be resolved.
        stored: the checkpoint's own, where the caller of this has read it already.

    Raises:
        UnknownMethodError, PluginError: the method cannot be resolved.
        ConfigError: the configs are wrong or contradict each other.
    """
    stored = stored or config_in(checkpoint.config()) or stored_config(checkpoint.folder)
    if stored is None and passed is None:
        return None
    if stored is None:
        return AutoHfQuantizer.from_config(passed, pre_quantized=False)
    try:
        config = AutoQuantizationConfig.merge_quantization_configs(stored, passed)
        return AutoHfQuantizer.from_config(config, pre_quantized=True)
    except (ConfigError, UnknownMethodError) as error:
        if passed is None:  # otherwise it may be the caller's
            error.args = (f"{checkpoint.path}: quantization config: {error}",)
        raise
