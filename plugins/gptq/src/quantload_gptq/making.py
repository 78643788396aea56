"""Configs of checkpoints that are made here, and notes on those that are read."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from quantload.plugin import ConfigError
from quantload_gptq.overrides import PLANAR_ONLY

if TYPE_CHECKING:
    from quantload_gptq.config import GPTQConfig

logger = logging.getLogger("quantload.gptq")

_MAKER = "quantload"


def config_for_making(config: GPTQConfig) -> GPTQConfig:
    """The config as it describes what rounding to nearest makes.

    Raises:
        ConfigError: Marlin with other than 4 bits or with zero-points.
    """
    meta = config.meta if isinstance(config.meta, dict) else {}
    changes: dict[str, object] = {"meta": {**meta, "quantizer": [_maker()]}}
    if config.desc_act:
        logger.warning(
            "desc_act orders columns by their activations, and rounding to nearest sees none: "
            "the columns keep their order, and desc_act=false is written"
        )
        changes["desc_act"] = False
    layout = _format_to_make(config)
    if layout != config.checkpoint_format:
        changes["checkpoint_format"] = layout
    return config.replace(**changes)


def _format_to_make(config: GPTQConfig) -> str:
    asked = config.checkpoint_format
    if asked == "marlin" and (config.bits != 4 or not config.sym):
        raise ConfigError(
            f"GPTQConfig: the marlin layout has 4 bits and no zero-points, found bits="
            f"{config.bits} and sym={config.sym}",
            field="checkpoint_format",
            value=asked,
            allowed="'gptq' or 'gptq_v2', or bits=4 and sym=true",
        )
    # GPTQModel takes a config with such a width anywhere for one of the planar layout
    overrides = [changes or {} for changes in (config.dynamic or {}).values()]
    widths = {config.bits, *(o.get("bits", o.get("w_bit")) for o in overrides)}
    if widths & set(PLANAR_ONLY) and asked != "gptq_p":
        logger.info("codes of 5, 6 or 7 bits exist as gptq_p only; that is written")
        return "gptq_p"
    return asked


def readable_by_others(config: GPTQConfig) -> GPTQConfig:
    """The config of a whole model that is to be made: asymmetric as `gptq_v2` by itself.

    GPTQModel takes asymmetric version-1 files from itself alone, and version 2 from all.
    """
    if config.sym or config.checkpoint_format != "gptq":
        return config
    if "checkpoint_format" in config.given():
        logger.warning(
            "asymmetric layers are written as gptq (version 1), as asked for; GPTQModel takes "
            "such files from itself alone, and takes checkpoint_format='gptq_v2' from all"
        )
        return config
    return config.replace(checkpoint_format="gptq_v2")


def _maker() -> str:
    from quantload import __version__

    return f"{_MAKER}:{__version__}"


def warn_about(config: GPTQConfig, pre_quantized: bool) -> None:
    """Say what of a checkpoint cannot be trusted, or is not done.

    Raises:
        ConfigError: the model would have to rotate its activations.
    """
    if config.rotation:
        raise ConfigError(
            f"GPTQConfig.rotation: the weights were rotated ({config.rotation!r}) and the model "
            f"must rotate activations to match, which is not done here; take a checkpoint without "
            f"rotation",
            field="rotation",
            value=config.rotation,
            allowed="null",
        )
    if config.adapter:
        logger.warning("the checkpoint's adapter is not applied: load it with peft")
    if pre_quantized and not config.sym and config.checkpoint_format == "gptq" and _old(config):
        logger.warning(
            "asymmetric checkpoints that GPTQModel before 0.9 wrote as gptq (version 1) have "
            "damaged zero-points; make it again with a newer GPTQModel, or as gptq_v2"
        )


def _old(config: GPTQConfig) -> bool:
    makers = config.meta.get("quantizer") if isinstance(config.meta, dict) else None
    for maker in makers if isinstance(makers, list) else [makers]:
        found = re.match(r"gptqmodel:(\d+)\.(\d+)", str(maker).lower())
        if found and (int(found[1]), int(found[2])) < (0, 9):
            return True
    return False
