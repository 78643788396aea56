"""`tp_plan=`: packed weights split among processes, by the plan of the model's class.

Source: `transformers.distributed` (5.17 to 5.23). It wraps the `forward` of the modules that
a plan names, and splits the parameters that it names; packed weights are no parameters, so
each process keeps its part of them here.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from quantload.errors import UnsupportedOperationError
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
        asked: whether there is more than one.
    """

    def __init__(self, model: Any, hosts: list[str]) -> None:
        self._model = model
        self.size = _size(getattr(model.config, "distributed_config", None))
        self.asked = self.size > 1
        self._styles: dict[str, str] = {}
        if not self.asked:
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
        return weight.shard(dim, torch.distributed.get_rank(), world)


def _size(config: Any) -> int:
    if config is None:
        return 1
    found = getattr(config, "tp_size", None)
    if found is None:
        plan = getattr(config, "tp_plan", None)
        found = torch.distributed.get_world_size() if plan is not None else 1
    return int(found)
