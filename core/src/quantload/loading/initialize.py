"""Initialising modules that know only `reset_parameters`, without losing what is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from quantload.errors import CheckpointError
from quantload.loading.buffers import lost_buffers


def buffer_resetter(module: nn.Module) -> Callable[[nn.Module], None]:
    """What computes the lost buffers of a module whose parameters are still on meta.

    `reset_parameters` of a module that owns one runs on it; on parameters without
    memory it does nothing.
    """
    owners = {id(owner): owner for _, owner, _ in lost_buffers(module)}

    def reset(built: nn.Module) -> None:  # noqa: ARG001  a callback
        for owner in owners.values():
            reset_parameters = getattr(owner, "reset_parameters", None)
            on_meta = all(p.is_meta for p in owner.parameters(recurse=False))
            if callable(reset_parameters) and on_meta:
                with torch.no_grad():
                    reset_parameters()

    return reset


def initialize_missing(module: nn.Module, names: Iterable[str]) -> None:
    """Fill the named tensors as their modules' `reset_parameters` does, and no others.

    Raises:
        CheckpointError: a module has no `reset_parameters`.
    """
    by_owner: dict[str, set[str]] = {}
    for name in names:
        prefix, _, leaf = name.rpartition(".")
        by_owner.setdefault(prefix, set()).add(leaf)
    for prefix, leaves in by_owner.items():
        owner = module.get_submodule(prefix)
        reset_parameters = getattr(owner, "reset_parameters", None)
        if not callable(reset_parameters):
            listing = ", ".join(f"{prefix}.{leaf}" for leaf in sorted(leaves))
            raise CheckpointError(
                f"{listing}: not in the checkpoint, and {type(owner).__name__} has no "
                f"reset_parameters() that could initialise it; give it one, or complete the "
                f"checkpoint"
            )
        loaded = {k: p for k, p in owner._parameters.items() if k not in leaves and p is not None}
        for key, parameter in loaded.items():
            owner._parameters[key] = nn.Parameter(
                torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
            )
        try:
            with torch.no_grad():
                reset_parameters()
        finally:
            owner._parameters.update(loaded)
