"""Parts and settings of a weight, as a class declares them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

import torch

from quantload.errors import UnsupportedOperationError

Axis = Literal["out", "in"]

# "in", "out/4", "in/group_size", "in*bits/8"
_DIMENSION = re.compile(r"(out|in)(?:\*(\w+))?(?:/(\w+))?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One dimension of a part: a multiple or fraction of one of the weight's own.

    Attributes:
        text: as it was declared.
        axis: the weight's dimension it follows, "out" or "in"; None for a fixed size.
        times: factor, a number or the name of a setting.
        per: divisor, likewise.
    """

    text: str
    axis: Axis | None
    times: str = "1"
    per: str = "1"

    @classmethod
    def parse(cls, declared: int | str) -> Dimension:
        """From `3`, `"out"`, `"in/group_size"` or `"in*bits/8"`.

        Raises:
            TypeError: it is none of these.
        """
        text = str(declared)
        if isinstance(declared, int) and not isinstance(declared, bool) and declared > 0:
            return cls(text, None, text)
        match = _DIMENSION.fullmatch(text) if isinstance(declared, str) else None
        if match is None:
            raise TypeError(
                f"a dimension of a part is a number, 'out', 'in', or a part of these such as "
                f"'in/group_size' or 'in*bits/8'; found {declared!r}"
            )
        axis: Axis = "out" if match.group(1) == "out" else "in"
        return cls(text, axis, match.group(2) or "1", match.group(3) or "1")

    def factors(self, settings: Mapping[str, Any]) -> tuple[int, int]:
        """Factor and divisor as numbers."""
        times, per = (int(n if n.isdigit() else settings[n]) for n in (self.times, self.per))
        return times, per

    def names(self) -> set[str]:
        """The settings it needs."""
        return {n for n in (self.times, self.per) if not n.isdigit()}

    def size(self, shape: tuple[int, ...], settings: Mapping[str, Any]) -> int:
        """How large it is for a weight of this shape.

        Raises:
            UnsupportedOperationError: the weight does not divide evenly.
        """
        times, per = self.factors(settings)
        if self.axis is None:
            return times
        total = shape[0 if self.axis == "out" else 1] * times
        if total % per:
            raise UnsupportedOperationError(
                f"a weight of {shape[0]}x{shape[1]} does not divide into {self.text} "
                f"({total} / {per} is no whole number)"
            )
        return total // per

    def length(self, size: int, settings: Mapping[str, Any]) -> int | None:
        """The length of the weight's axis that makes this dimension `size`; None if none does."""
        times, per = self.factors(settings)
        return size * per // times if self.axis and not size * per % times else None


@dataclasses.dataclass(frozen=True)
class Part:
    """One tensor of a weight's storage.

    Attributes:
        dtypes: names of the dtypes it may have; a weight that is made gets the first.
        shape: its dimensions.
    """

    dtypes: tuple[str, ...]
    shape: tuple[Dimension, ...]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of a part that is made here."""
        found: torch.dtype = getattr(torch, self.dtypes[0])
        return found

    def sizes(self, shape: tuple[int, ...], settings: Mapping[str, Any]) -> tuple[int, ...]:
        """Its shape in a weight of `shape`; see `Dimension.size`."""
        return tuple(dimension.size(shape, settings) for dimension in self.shape)

    def axis(self, name: Axis) -> int | None:
        """Number of the dimension that follows an axis of the weight; None where none does."""
        found = [n for n, dimension in enumerate(self.shape) if dimension.axis == name]
        return found[0] if found else None


@dataclasses.dataclass(frozen=True)
class Setting:
    """A field of the config that a weight has to know."""


def part(dtype: str | tuple[str, ...], *shape: int | str) -> Any:
    """Declare a tensor of a `PartsWeight`, in the body of the class.

    `codes: Tensor = part("int8", "out", "in")` is one byte for each number of the weight.

    Args:
        dtype: name of its dtype; of several that are accepted, the first is made.
        *shape: each dimension as a number, as "out" or "in" (the weight's own), or as a
            part of these that divides evenly: "in/2", "in/group_size", "in*bits/8". Names
            are settings.

    Raises:
        TypeError: no such dtype or dimension, or an axis of the weight occurs twice.
    """
    dtypes = (dtype,) if isinstance(dtype, str) else tuple(dtype)
    for name in dtypes:
        if not isinstance(getattr(torch, name, None), torch.dtype):
            raise TypeError(f"torch has no dtype {name!r}")
    made = Part(dtypes, tuple(map(Dimension.parse, shape)))
    axes = [dimension.axis for dimension in made.shape if dimension.axis]
    if not dtypes or len(axes) != len(set(axes)):
        raise TypeError(f"part({dtype!r}, {shape}): a part has a dtype, and each axis at most once")
    return made


def setting() -> Any:
    """Declare a field of the config that a weight needs, in the body of its class.

    With `group_size: int = setting()` it has that attribute, and shapes may name it.
    """
    return Setting()
