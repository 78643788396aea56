"""Building a model of `transformers` without memory for its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization

from quantload.checkpoint.base import Checkpoint
from quantload.errors import CheckpointError
from quantload.loading.device_map import CPU


def resolve_dtype(config: Any, checkpoint: Checkpoint, asked: torch.dtype | None) -> torch.dtype:
    """The dtype of what stays float, as `from_pretrained` finds it.

    Args:
        config: of the model.
        checkpoint: its first float tensor decides where the config says nothing.
        asked: by the caller; None for "auto".
    """
    if asked is not None:
        return asked
    declared = getattr(config, "dtype", None)
    if isinstance(declared, str):
        declared = getattr(torch, declared, None)
    if isinstance(declared, torch.dtype) and declared.is_floating_point:
        return declared
    for info in checkpoint.tensors.values():
        if info.dtype in ("F32", "F16", "BF16", "F64"):
            return info.torch_dtype
    return torch.float32


def set_dtype(config: Any, dtype: torch.dtype) -> None:
    """Write a dtype into a config and those inside it."""
    config.dtype = dtype
    for key in getattr(config, "sub_configs", None) or {}:
        part = getattr(config, key, None)
        if part is not None:
            part.dtype = dtype


def settle_config(config: Any, quantization_config: object) -> None:
    """Write the quantization config where everybody looks for it, and nowhere else.

    Checkpoints with several parts may carry it in the config of one of them.
    """
    config.quantization_config = quantization_config
    for key in getattr(config, "sub_configs", None) or {}:
        part = getattr(config, key, None)
        if part is not None:
            vars(part).pop("quantization_config", None)


def build(cls: Any, config: Any, dtype: torch.dtype, **options: Any) -> Any:
    """A model on the meta device whose tied weights are not tied yet.

    Args:
        cls: its class.
        config: its config.
        dtype: of what stays float.
        **options: what the class is built with beside.

    Raises:
        CheckpointError: the class cannot be built from such a config.
    """
    try:
        return _on_meta(cls, config, dtype, options)
    except _CONTRADICTIONS as error:
        raise CheckpointError(
            f"{config.name_or_path}: its config.json describes no {cls.__name__} that can be "
            f"built: {type(error).__name__}: {error}"
        ) from error


_CONTRADICTIONS = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError)
"""What values end in that fit no model; a missing package is told as it is."""


def _on_meta(cls: Any, config: Any, dtype: torch.dtype, options: Mapping[str, Any]) -> Any:
    with ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        stack.enter_context(initialization.no_init_weights())
        for name in ("no_tie_weights", "meta_device_safe_creation_ops"):
            # Both are younger than transformers 5.0.
            stack.enter_context(getattr(initialization, name, nullcontext)())
        return cls._from_config(config, dtype=dtype, **options)


def buffer_source(cls: Any, config: Any, dtype: torch.dtype) -> Callable[[], Mapping[str, Tensor]]:
    """What builds the class once more with real buffers, and hands them out by name.

    It is asked only for buffers that the class's `_init_weights` does not fill.
    """

    def real_buffers() -> Mapping[str, Tensor]:
        untied = getattr(initialization, "no_tie_weights", nullcontext)
        with torch.device(CPU), initialization.no_init_weights(), untied(), _no_parameters():
            model = cls._from_config(config, dtype=dtype)
        return dict(model.named_buffers(remove_duplicate=False))

    return real_buffers


@contextmanager
def _no_parameters() -> Iterator[None]:
    """Parameters are moved to meta as soon as a module gets them; buffers stay real."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(module, name, param)
        if param is not None and not param.is_meta:
            empty = torch.empty_like(param, device="meta")
            module._parameters[name] = nn.Parameter(empty, requires_grad=param.requires_grad)

    nn.Module.register_parameter = on_meta  # type: ignore[assignment,method-assign]  # for a while
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
