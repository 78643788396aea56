"""What a class of `transformers` says of itself that matters for loading."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from quantload.integrations.transformers.conversions import TransformersNames
from quantload.integrations.transformers.experts import experts_layout
from quantload.integrations.transformers.skeleton import buffer_source
from quantload.loading.traits import Traits


def traits_of(model: Any, dtype: torch.dtype, names: TransformersNames | None = None) -> Traits:
    """The traits of a model's class.

    Args:
        model: the skeleton.
        dtype: of what stays float.
        names: how its checkpoints name what it holds; as its class publishes it if None.
    """
    return Traits(
        names=names or TransformersNames(model),
        dtype_of=_dtype_rule(model, dtype),
        ties=dict(getattr(model, "all_tied_weights_keys", None) or {}),
        missing_allowed=_any_of(getattr(model, "_keys_to_ignore_on_load_missing", None)),
        unexpected_allowed=_any_of(_superfluous(model)),
        initialize=_initialize,
        real_buffers=buffer_source(type(model), model.config, dtype),
        no_split=tuple(sorted(getattr(model, "_no_split_modules", None) or ())),
        experts=experts_layout,
    )


def _dtype_rule(model: Any, dtype: torch.dtype) -> Callable[[str, Tensor], torch.dtype]:
    """Classes keep some tensors in float32: some in float16 only, some always."""
    patterns: set[str] = set()
    if dtype == torch.float16:
        patterns |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    if dtype in (torch.float16, torch.bfloat16):
        patterns |= set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    kept = _any_of(pattern.replace("*", ".*") for pattern in patterns)

    def rule(name: str, tensor: Tensor) -> torch.dtype:
        return torch.float32 if tensor.is_floating_point() and kept(name) else tensor.dtype

    return rule


def _superfluous(model: Any) -> set[str]:
    """Patterns of tensors that old checkpoints hold and the class computes or dropped."""
    found = set(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    buffers = [name for name, _ in model.named_buffers()]
    if any(name.endswith("rotary_emb.inv_freq") for name in buffers):
        found.add(r"rotary_emb\.inv_freq")
    if any(name.endswith("position_ids") for name in buffers):
        found.add(r"(^|\.)position_ids$")
    return found


def _any_of(patterns: Iterable[str] | None) -> Callable[[str], bool]:
    compiled = [re.compile(pattern) for pattern in patterns or ()]
    return lambda name: any(pattern.search(name) for pattern in compiled)


def _initialize(model: nn.Module, names: list[str]) -> None:  # noqa: ARG001  part of the contract
    """Let the class fill what is not marked as initialised."""
    model.initialize_weights()  # type: ignore[operator]  # a method of PreTrainedModel
