"""What a kernel is: a faster `linear` for one layout on one kind of device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from quantload.verdict import Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from quantload.weights.packed import PackedWeight


@dataclass(frozen=True)
class KernelSpec:
    """What a kernel is asked about.

    Attributes:
        layout: `PackedWeight.layout` of the weight.
        device: where it runs.
        capability: compute capability on CUDA, `(0, 0)` elsewhere.
        dtype: compute dtype.
        shape: `(out_features, in_features)`.
        params: `PackedWeight.kernel_params()` of the weight.
    """

    layout: str
    device: torch.device
    capability: tuple[int, int]
    dtype: torch.dtype
    shape: tuple[int, ...]
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, weight: PackedWeight, device: torch.device | None = None) -> KernelSpec:
        """The question for a weight where it is, or where it will be."""
        where = device or weight.device
        capability = (0, 0)
        if where.type == "cuda":
            capability = torch.cuda.get_device_capability(where)
        return cls(
            weight.layout,
            where,
            capability,
            weight.dtype,
            tuple(weight.shape),
            dict(weight.kernel_params()),
        )


class Kernel(ABC):
    """A faster product for packed weights. Stateless: one instance serves them all.

    `linear` must give what the reference gives, within the rounding of `x.dtype`,
    for every `x` and every weight that `supports` accepted; it must change neither,
    must let a gradient reach `x`, and must be traceable by `torch.compile` (an op
    registered with `torch.library`, with a fake implementation).
    """

    name: ClassVar[str]
    """By which `kernel="name"` asks for it."""

    priority: ClassVar[int] = 0
    """Higher is tried first; equal ones in the order of their names."""

    groups: ClassVar[bool] = False
    """Whether `linear` reads nothing of a weight in its arrangement but the storage and what
    follows from `shape` and `kernel_params`. Then the experts of a model run as a group."""

    @abstractmethod
    def supports(self, spec: KernelSpec) -> Verdict:
        """Whether it runs such a weight there; a no says why."""

    def arrange(self, weight: PackedWeight) -> dict[str, Tensor | None] | None:
        """The storage in the kernel's own arrangement; None where canonical storage serves."""
        return None

    def restore(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """Canonical storage from what `arrange` made, exactly as it was."""
        return dict(weight._parameters)

    @abstractmethod
    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """`x @ W.T`, computed and returned in `x.dtype`."""

    def linear_chosen(
        self, weight: PackedWeight, stacks: Mapping[str, Tensor], x: Tensor, chosen: Tensor
    ) -> Tensor:
        """Each row of `x` times one of many weights, which `chosen` tells on the device.

        Only asked of kernels with `groups`, and for no gradient. This one takes the storage
        of each choice out and multiplies with it.

        Args:
            weight: one of the weights, in the kernel's arrangement.
            stacks: name -> the storage of all of them, `[weights, ...]`.
            x: `[rows, in_features]`.
            chosen: int64 `[rows]`, numbers of weights.

        Returns:
            `[rows, out_features]`, in `x.dtype`.
        """
        found = []
        for row in range(x.shape[0]):
            number = chosen[row : row + 1]
            own = {name: stack.index_select(0, number)[0] for name, stack in stacks.items()}
            found.append(self.linear(weight.with_storage(own), x[row : row + 1]))
        return torch.cat(found)
