"""Which layers of a float model become GPTQ layers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from quantload.quantizers.overrides import override_for
from quantload.quantizers.targets import kept_in_float, quantizable_modules
from quantload_gptq import marlin
from quantload_gptq.overrides import parameters_for

if TYPE_CHECKING:
    from torch import nn

    from quantload.plugin import ModuleSpec
    from quantload_gptq.config import GPTQConfig

logger = logging.getLogger("quantload.gptq")

_SIDE = 32


def find_targets(
    model: nn.Module, config: GPTQConfig, skip: list[str]
) -> tuple[dict[str, ModuleSpec], GPTQConfig]:
    """The layers, and the config with what had to be left out written into `dynamic`.

    Args:
        model: the float model or its skeleton.
        config: the settings.
        skip: modules that the caller wants in float.
    """
    keep = kept_in_float(model)
    if config.lm_head:
        keep -= _untied_head(model)
    found: dict[str, ModuleSpec] = {}
    misfits: list[str] = []
    for name, spec in quantizable_modules(model, skip, keep).items():
        if not _asked_for(name, config):
            continue
        (found.__setitem__(name, spec) if _fits(spec, config) else misfits.append(name))
    if misfits:
        config = _with_skips(config, misfits)
    return found, config


def _untied_head(model: nn.Module) -> set[str]:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None:
        return set()
    shared = sum(p is head.weight for _, p in model.named_parameters(remove_duplicate=False))
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    names = {name for name, module in model.named_modules() if module is head}
    if shared > 1 or any(f"{name}.weight" in (*tied, *tied.values()) for name in names):
        logger.warning("lm_head is true, but the head is tied to the embedding: it stays float")
        return set()
    return names


def _asked_for(name: str, config: GPTQConfig) -> bool:
    if override_for(config.dynamic, name) is None:
        return False
    block = config.block_name_to_quantize
    inside = block is None or name.startswith(f"{block}.")
    listed = list(_flat(config.modules_in_block_to_quantize))
    if not listed:
        return inside
    return inside and any(name == end or name.endswith(f".{end}") for end in listed)


def _flat(names: Any) -> Iterator[str]:
    for name in names or ():
        if isinstance(name, str):
            yield name
        else:
            yield from _flat(name)


def _fits(spec: ModuleSpec, config: GPTQConfig) -> bool:
    assert spec.shape is not None
    rows, columns = spec.shape
    said = parameters_for(config, spec.name)
    if said.format == "marlin":
        size = columns if said.group_size == -1 else said.group_size
        return marlin.fits(rows, columns, size)
    return rows % _SIDE == 0 and columns % _SIDE == 0


def _with_skips(config: GPTQConfig, names: list[str]) -> GPTQConfig:
    patterns = [f"-:^{re.escape(name)}$" for name in names]
    have = config.dynamic or {}
    fresh: dict[str, Any] = {pattern: {} for pattern in patterns if pattern not in have}
    if fresh:
        logger.info(
            "%d layers stay float, for their sides do not fit %s: %s",
            len(names),
            config.checkpoint_format,
            ", ".join(names[:5]),
        )
    return config.replace(dynamic={**fresh, **have})
