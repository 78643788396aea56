"""What several processes hold of one model, brought to the first of them.

All processes have to come to these functions together.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from quantload.modules.experts import QuantizedExperts

M = TypeVar("M", bound=nn.Module)


def gathered(mine: M) -> list[M]:
    """What each process has, in the order of their ranks, on the CPU; nothing but in the first."""
    return _sent(_on_cpu(mine))


@contextmanager
def gathered_experts(model: nn.Module) -> Iterator[None]:
    """Let the first process hold the experts of all others for a while, to be saved.

    Args:
        model: what `QuantizedExperts.keep` was called of. It computes again as before
            afterwards; in between, those that came lie on the CPU.
    """
    changed: list[tuple[QuantizedExperts, dict[str, nn.Module | None]]] = []
    try:
        for experts in list(model.modules()):
            if not isinstance(experts, QuantizedExperts) or experts.own is None:
                continue
            held = {str(number) for number in experts.own}
            own = {name: _on_cpu(child) for name, child in experts.named_children() if name in held}
            found: dict[str, nn.Module] = {}
            for parts in _sent(own):
                found |= parts
            if found:
                changed.append((experts, dict(experts._modules)))
                _replace(experts, {**found, **experts._modules})
        yield
    finally:
        for experts, children in changed:
            _replace(experts, children)


def _replace(experts: QuantizedExperts, children: Mapping[str, nn.Module | None]) -> None:
    """Give a module these children, the experts first, by their numbers."""
    numbers = sorted(filter(str.isdigit, children), key=int)
    others = [name for name in children if not name.isdigit()]
    experts._modules.clear()
    experts._modules.update((name, children[name]) for name in (*numbers, *others))


def _on_cpu(module: M) -> M:
    devices = {tensor.device.type for tensor in module.parameters()}
    return module if devices <= {"cpu"} else copy.deepcopy(module).to("cpu")


def _sent(mine: Any) -> list[Any]:
    first = torch.distributed.get_rank() == 0
    found: list[Any] | None = [None] * torch.distributed.get_world_size() if first else None
    torch.distributed.gather_object(mine, found, dst=0)
    return found or []
