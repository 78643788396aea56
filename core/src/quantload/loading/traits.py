"""What the loader must know of a model's class and cannot see in its modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quantload.loading.names import NameMap, PlainNames
from quantload.modules.experts import ExpertsLayout
from quantload.verdict import Verdict


def _never(name: str) -> bool:  # noqa: ARG001  a predicate
    return False


def _declared_dtype(name: str, tensor: Tensor) -> torch.dtype | None:  # noqa: ARG001
    return tensor.dtype


def _no_experts(module: nn.Module) -> ExpertsLayout | Verdict | None:  # noqa: ARG001
    return None


@dataclass
class Traits:
    """The answers of one model class; the defaults are those of a plain `nn.Module`.

    Attributes:
        names: from the checkpoint's names to the model's.
        dtype_of: model name and (meta) tensor -> the dtype to load it in; None keeps
            the checkpoint's.
        ties: tensor name -> name of the tensor it shares its bytes with.
        missing_allowed: whether the class does without this tensor.
        unexpected_allowed: whether the class knows this checkpoint tensor as superfluous.
        initialize: gives a value to the named tensors, into which nothing was loaded,
            and to buffers that checkpoints do not hold.
        real_buffers: the buffers that checkpoints do not hold, computed anew on the CPU.
        no_split: names of module classes that stay on one device.
        experts: how a module keeps experts in 3-D parameters; None where it keeps none,
            a no with the reason where what it does with them is not known.
    """

    names: NameMap = field(default_factory=PlainNames)
    dtype_of: Callable[[str, Tensor], torch.dtype | None] = _declared_dtype
    ties: Mapping[str, str] = field(default_factory=dict)
    missing_allowed: Callable[[str], bool] = _never
    unexpected_allowed: Callable[[str], bool] = _never
    initialize: Callable[[nn.Module, list[str]], None] | None = None
    real_buffers: Callable[[], Mapping[str, Tensor]] | None = None
    no_split: tuple[str, ...] = ()
    experts: Callable[[nn.Module], ExpertsLayout | Verdict | None] = _no_experts
