"""`tp_plan=` and experts that are taken apart: each process runs some of them, whole.

A plan of the class splits the 3-D parameters of experts along their rows and columns and
adds up what the processes give. Whole experts, each in one process, add up to the same; so
no layout has to be split, and blocks and groups stay as they are.

Source: `transformers.distributed.tensor_parallel.MoeExpertsParallel` (5.17 to 5.23).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch

from quantload.errors import UnsupportedOperationError
from quantload.modules.experts import QuantizedExperts

SUMMED = "moe_tp_experts"
"""The style of a module of experts whose outputs are added up."""
_NUMBER = re.compile(r"\.\d+(?=\.|$)")


class ExpertSplit:
    """Which experts of a model other processes have.

    Args:
        model: the skeleton, with its experts taken apart; what its plan says of the 3-D
            parameters, which are no more, is taken out.
        size: number of processes among which a plan is to split it.

    Raises:
        UnsupportedOperationError: the plan wants them split in another way.
    """

    def __init__(self, model: Any, size: int) -> None:
        self._own: dict[str, frozenset[int]] = {}
        if size < 2:
            return
        plan, world = model.tp_plan, torch.distributed.get_world_size()
        patterns: set[str] = set()
        for name, experts in _experts(model):
            pattern = _NUMBER.sub(".*", name)
            stacks = {f"{pattern}.{s}": plan.get(f"{pattern}.{s}") for s in experts.layout.stacks}
            if plan.get(pattern) == SUMMED and world == size:
                rank = torch.distributed.get_rank()
                self._own[name] = frozenset(range(rank, experts.num_experts, world))
            elif pattern in plan or any(stacks.values()):
                said = plan.get(pattern) or ", ".join(map(str, stacks.values()))
                raise UnsupportedOperationError(
                    f"{name}: tp_plan={said!r} cannot be applied to packed experts; expected "
                    f"{SUMMED!r} among all processes ({world}), or no rule for them"
                )
            patterns.update(stacks)
        for key in patterns:
            plan.pop(key, None)

    @property
    def apart(self) -> bool:
        """Whether other processes have some of the experts."""
        return bool(self._own)

    def away(self, name: str) -> bool:
        """Whether a tensor or module belongs to an expert that another process has."""
        for experts, own in self._own.items():
            if name.startswith(f"{experts}."):
                number = name.removeprefix(f"{experts}.").partition(".")[0]
                return number.isdigit() and int(number) not in own
        return False

    def finish(self, model: Any) -> None:
        """Let go of the experts that other processes have."""
        for name, own in self._own.items():
            model.get_submodule(name).keep(own)


def refuse_expert_parallel(model: Any) -> None:
    """Experts that are taken apart cannot be spread by an `ep_plan`.

    Raises:
        UnsupportedOperationError: they were asked to be.
    """
    settings = getattr(model.config, "distributed_config", None)
    asked = getattr(settings, "enable_expert_parallel", False)
    if not asked and int(getattr(settings, "ep_size", None) or 1) < 2:
        return
    for name, _ in _experts(model):
        raise UnsupportedOperationError(
            f"{name}: packed experts cannot be spread by an ep_plan; use tp_plan=, with which "
            f"each process has some of them"
        )


def _experts(model: Any) -> Iterator[tuple[str, QuantizedExperts]]:
    for name, module in model.named_modules():
        if isinstance(module, QuantizedExperts):
            yield name, module
