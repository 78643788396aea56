"""Configs of checkpoints that are made here, and notes on those that are read."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from quantload.plugin import ConfigError
from quantload_gptq.config import PLANAR_ONLY

if TYPE_CHECKING:
    from quantload_gptq.config import GPTQConfig

logger = logging.getLogger("quantload.gptq")

_MAKER = "quantload"


def config_for_making(config: GPTQConfig) -> GPTQConfig:
    """The config as it describes what rounding to nearest makes."""
    changes: dict[str, object] = {"meta": {**(config.meta or {}), "quantizer": [_maker()]}}
    if config.desc_act:
        logger.warning(
            "desc_act orders columns by their activations, and rounding to nearest sees none: "
            "the columns keep their order, and desc_act=false is written"
        )
        changes["desc_act"] = False
    if config.bits in PLANAR_ONLY and config.checkpoint_format != "gptq_p":
        logger.info("%d-bit GPTQ exists as gptq_p only; that is written", config.bits)
        changes["checkpoint_format"] = "gptq_p"
    return config.replace(**changes)


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
    makers = (config.meta or {}).get("quantizer") or []
    for maker in [makers] if isinstance(makers, str) else makers:
        found = re.match(r"gptqmodel:(\d+)\.(\d+)", str(maker).lower())
        if found and (int(found[1]), int(found[2])) < (0, 9):
            return True
    return False
