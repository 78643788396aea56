"""`tp_plan=`: packed weights split among processes, by the plan of the model's class.

Source: `transformers.distributed` (5.17 to 5.23). It wraps the `forward` of the modules that
a plan names, and splits the parameters that it names; packed weights are no parameters, so
each process keeps its part of them here, and the parts are put together to be saved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from quantload.errors import UnsupportedOperationError
from quantload.integrations.transformers.bridge.gathering import gathered, gathered_experts
from quantload.modules import hosts_of
from quantload.weights.packed import PackedWeight

_DIMENSIONS = {"colwise": 0, "colwise_gather_output": 0, "colwise_rep": 0, "rowwise": 1}
_NUMBER = re.compile(r"\.\d+(?=\.|$)")


class Split:
    """How the packed weights of one model are split.

    Args:
        model: the skeleton with its hosts; what its plan says of their weights is taken out.
        hosts: names of the hosts.

    Attributes:
        size: number of parts.
        experts_apart: other processes have some of the experts, whole.
    """

    def __init__(self, model: Any, hosts: list[str]) -> None:
        self._model = model
        self.size = _size(getattr(model.config, "distributed_config", None))
        self.experts_apart = False
        self._styles: dict[str, str] = {}
        self._outlines: dict[str, tuple[PackedWeight, int]] = {}
        if not is_split(model):
            return
        plan = model.tp_plan
        for name in hosts:
            key = _NUMBER.sub(".*", name)
            if key in plan:
                self._styles[name] = plan[key]
        for key in {_NUMBER.sub(".*", name) for name in hosts}:
            plan.pop(f"{key}.weight", None)

    def part(self, name: str, weight: PackedWeight) -> PackedWeight:
        """The part of a weight that this process computes with; all of it where none is split.

        Raises:
            UnsupportedOperationError: the plan, or the layout, splits in another way.
        """
        if name not in self._styles:
            return weight
        style = self._styles[name]
        if style not in _DIMENSIONS:
            raise UnsupportedOperationError(
                f"{name}: tp_plan={style!r} cannot be applied to a packed weight; expected "
                f"{', '.join(_DIMENSIONS)}"
            )
        world = torch.distributed.get_world_size()
        if world != self._model._tp_size:
            raise UnsupportedOperationError(
                f"{name}: packed weights are split among all processes ({world}) or none, and "
                f"tp_size is {self._model._tp_size}"
            )
        dim = _DIMENSIONS[style]
        if weight.shape[dim] % world:
            raise UnsupportedOperationError(
                f"{name}: {list(weight.shape)} cannot be split along dimension {dim} among "
                f"{world} processes"
            )
        self._outlines[name] = weight.outline(dim), dim
        return weight.shard(dim, torch.distributed.get_rank(), world)

    def done(self) -> bool:
        """Let go of the model when it is loaded; whether this process has parts of weights."""
        self._model = None
        return bool(self._outlines) or self.experts_apart

    @contextmanager
    def whole(self, model: Any) -> Iterator[bool]:
        """Let the first process have every packed weight whole, in memory, for a while.

        All processes have to come here together; the first is told True.

        Raises:
            UnsupportedOperationError: the layout cannot be joined.
        """
        hosts = {name: host for name, host in hosts_of(model) if name in self._outlines}
        for name, host in hosts.items():  # before they wait for each other
            if type(host.weight).join_stored is PackedWeight.join_stored:
                raise UnsupportedOperationError(
                    f"{name}: every process has a part of it, and a {type(host.weight).__name__} "
                    f"does not say how parts are joined (join_stored); save the model from one "
                    f"that was loaded without tp_plan="
                )
        parts: dict[str, PackedWeight] = {}
        try:
            for name, host in hosts.items():
                outline, dim = self._outlines[name]
                found = gathered(host.weight)
                parts[name] = host.weight
                if found:
                    host._modules["weight"] = outline.joined(found, dim)
            with gathered_experts(model):
                yield torch.distributed.get_rank() == 0
        finally:
            for name, weight in parts.items():
                hosts[name]._modules["weight"] = weight


def is_split(model: Any) -> bool:
    """Whether a model that is being loaded is to be split among processes."""
    return _size(getattr(model.config, "distributed_config", None)) > 1


def _size(config: Any) -> int:
    if config is None:
        return 1
    found = getattr(config, "tp_size", None)
    if found is None:
        plan = getattr(config, "tp_plan", None)
        found = torch.distributed.get_world_size() if plan is not None else 1
    return int(found)
