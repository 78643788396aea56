"""From the names in a checkpoint to the names in a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Slot = tuple["int | slice", ...]
"""An index into a tensor: where one source goes in the tensor it is a part of."""


class Conversion(Protocol):
    """Several checkpoint tensors that become one of the model's, or one that becomes several."""

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's tensors by name, from the checkpoint's by name.

        It also runs on meta tensors, which is how shapes are checked beforehand.
        """

    def slots(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Slot] | None:
        """Where each source goes, if the conversion only copies into one target; else None.

        Args:
            shapes: of the sources, by name.
        """


@dataclass(frozen=True)
class Route:
    """Which checkpoint tensors become which tensors of the model.

    Attributes:
        sources: names in the checkpoint.
        targets: names in the model, which need not exist there, and the shape each gets.
        conversion: None where one tensor is used as it is.
    """

    sources: tuple[str, ...]
    targets: Mapping[str, tuple[int, ...]]
    conversion: Conversion | None = None


@dataclass(frozen=True)
class Member:
    """A checkpoint tensor that the model has in a stack of such tensors, one per expert.

    Attributes:
        stack: the model's name of the stack, whose first dimension counts the experts.
        number: of the expert.
        part: place among those that lie one after the other in the rows of an expert.
        parts: how many of them there are.
    """

    stack: str
    number: int
    part: int = 0
    parts: int = 1


class NameMap(Protocol):
    """Says under which names a model keeps what a checkpoint holds."""

    def routes(self, sources: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[Route]:
        """One route for every checkpoint tensor or group of them.

        Args:
            sources: the checkpoint's tensors on meta, by name.
            expected: the model's own tensors on meta, by name.

        Raises:
            CheckpointError: tensors that belong together do not fit together.
        """

    def locate(self, name: str, expected: Mapping[str, Tensor]) -> tuple[str, bool]:
        """The model's name for one tensor, and whether a conversion would change it.

        It is asked for the weights of packed modules, which nothing may convert.
        """

    def member(self, name: str, expected: Mapping[str, Tensor]) -> Member | None:
        """Where one tensor lies in a stack, if stacking and joining is all that is done to it."""


class PlainNames:
    """A model that stores its tensors under the checkpoint's names.

    Args:
        rename: applied to every name of the checkpoint first.
    """

    def __init__(self, rename: Callable[[str], str] | None = None) -> None:
        self._rename = rename or (lambda name: name)

    def routes(
        self,
        sources: Mapping[str, Tensor],
        expected: Mapping[str, Tensor],
    ) -> list[Route]:
        """One route per tensor."""
        return [
            Route((name,), {self._rename(name): tuple(tensor.shape)})
            for name, tensor in sources.items()
        ]

    def locate(
        self,
        name: str,
        expected: Mapping[str, Tensor],
    ) -> tuple[str, bool]:
        """The renamed name; nothing is ever converted."""
        return self._rename(name), False

    def member(
        self,
        name: str,
        expected: Mapping[str, Tensor],
    ) -> Member | None:
        """None: nothing is ever stacked."""
        return None
