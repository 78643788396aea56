"""What converters do to tensors, undone: on numbers and, where rows move, on blocks.

Source: the `modify_tensors` methods of llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from quantload.errors import CheckpointError
from quantload_gguf.architectures.facts import Facts

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


class Transform:
    """From tensors of the file to one tensor of the model.

    Attributes:
        packed: what becomes of blocks: "moved" as numbers are, "kept" as they are, or
            "decoded" to float32 first.
    """

    packed: ClassVar[Literal["moved", "kept", "decoded"]] = "moved"

    def rowwise(self, shapes: Sequence[Shape]) -> bool:
        """Whether a row of the result is made of the same row of every source alone."""
        return False

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """The logical shape of the result."""
        return shapes[0]

    def apply(self, tensors: Sequence[Tensor], rows: slice, facts: Facts) -> Tensor:
        """Some rows of the result. The last dimension of packed tensors is in bytes."""
        raise NotImplementedError

    def revert(self, tensor: Tensor, facts: Facts) -> list[Tensor]:
        """The other way: the tensors of the file, in the order of the rule's sources."""
        raise NotImplementedError


@dataclass(frozen=True)
class RowOrder(Transform):
    """Base of those that put rows into another order."""

    def order(self, count: int, facts: Facts) -> Tensor:
        """int64 `[count]`: which row of the file is each row of the model."""
        raise NotImplementedError

    def apply(self, tensors: Sequence[Tensor], rows: slice, facts: Facts) -> Tensor:
        """See `Transform.apply`."""
        (tensor,) = tensors
        return tensor.index_select(0, self.order(tensor.shape[0], facts)[rows])

    def revert(self, tensor: Tensor, facts: Facts) -> list[Tensor]:
        """See `Transform.revert`."""
        places = self.order(tensor.shape[0], facts).argsort()
        return [tensor.index_select(0, places.to(tensor.device))]


@dataclass(frozen=True)
class Rotary(RowOrder):
    """Rows of each head that were interleaved for rotating neighbours, put back in halves.

    Attributes:
        keys: the heads are those of the keys.
    """

    keys: bool = False

    def order(self, count: int, facts: Facts) -> Tensor:
        """See `RowOrder.order`."""
        import torch

        heads = facts.kv_heads if self.keys else facts.heads
        _divides(2 * heads, count)
        places = torch.arange(count).view(heads, count // heads // 2, 2)
        return places.transpose(1, 2).reshape(-1)


@dataclass(frozen=True)
class FalconGroups(RowOrder):
    """All queries, all keys, all values, put back into groups of one key and value each."""

    def order(self, count: int, facts: Facts) -> Tensor:
        """See `RowOrder.order`."""
        import torch

        heads, groups = facts.heads, facts.kv_heads
        _divides(heads + 2 * groups, count)
        _divides(groups, heads)
        width = count // (heads + 2 * groups)
        places = torch.arange(count).view(-1, width)
        queries = places[:heads].reshape(groups, heads // groups, width)
        keys = places[heads : heads + groups].unsqueeze(1)
        values = places[heads + groups :].unsqueeze(1)
        return torch.cat([queries, keys, values], dim=1).reshape(-1)


@dataclass(frozen=True)
class Share(RowOrder):
    """The rows of the queries, keys or values of a matrix that holds all three.

    Attributes:
        which: "q", "k" or "v".
        then: what else is done to the rows.
        rows: where they begin and how many they are, once that is known; see `of`.
    """

    which: Literal["q", "k", "v"]
    then: RowOrder | None = None
    rows: tuple[int, int] = (0, 0)

    def of(self, facts: Facts) -> Share:
        """The same for the model in a file."""
        counts = {
            "q": facts.heads * facts.head_dim,
            "k": facts.kv_heads * facts.head_dim,
            "v": facts.kv_heads * facts.value_dim,
        }
        begin = sum(counts[name] for name in "qkv"[: "qkv".index(self.which)])
        return replace(self, rows=(begin, counts[self.which]))

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Transform.shape`."""
        begin, count = self.rows
        if shapes[0][0] < begin + count:
            raise CheckpointError(
                f"expected {begin + count} rows or more of queries, keys and values, found "
                f"{shapes[0][0]}: tensors and metadata of the file do not fit together"
            )
        return (count, *shapes[0][1:])

    def order(self, count: int, facts: Facts) -> Tensor:
        """See `RowOrder.order`."""
        import torch

        begin, own = self.rows
        places = torch.arange(own) if self.then is None else self.then.order(own, facts)
        return places + begin


@dataclass(frozen=True)
class MinusOne(Transform):
    """Norms that were stored plus one."""

    packed = "decoded"

    def rowwise(self, shapes: Sequence[Shape]) -> bool:
        """See `Transform.rowwise`."""
        return True

    def apply(self, tensors: Sequence[Tensor], rows: slice, facts: Facts) -> Tensor:
        """See `Transform.apply`."""
        import torch

        return tensors[0][rows].to(torch.float32) - 1

    def revert(self, tensor: Tensor, facts: Facts) -> list[Tensor]:
        """See `Transform.revert`."""
        return [tensor.float() + 1]


@dataclass(frozen=True)
class Turned(Transform):
    """A matrix that the model's class stores transposed (GPT-2's Conv1D).

    Packed ones are not: a packed weight always has its logical shape.
    """

    packed = "kept"

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Transform.shape`."""
        return tuple(reversed(shapes[0]))

    def apply(self, tensors: Sequence[Tensor], rows: slice, facts: Facts) -> Tensor:
        """See `Transform.apply`."""
        (tensor,) = tensors
        return tensor.movedim(0, -1)[rows].contiguous() if tensor.dim() > 1 else tensor[rows]

    def revert(self, tensor: Tensor, facts: Facts) -> list[Tensor]:
        """See `Transform.revert`."""
        return [tensor.movedim(-1, 0).contiguous() if tensor.dim() > 1 else tensor]


@dataclass(frozen=True)
class OneRow(Transform):
    """A vector that the model has as a matrix of one row."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Transform.shape`."""
        return (1, *shapes[0]) if len(shapes[0]) == 1 else shapes[0]

    def apply(self, tensors: Sequence[Tensor], rows: slice, facts: Facts) -> Tensor:
        """See `Transform.apply`."""
        (tensor,) = tensors
        return (tensor.unsqueeze(0) if tensor.dim() == 1 else tensor)[rows]

    def revert(self, tensor: Tensor, facts: Facts) -> list[Tensor]:
        """See `Transform.revert`."""
        return [tensor.squeeze(0)]


@dataclass(frozen=True)
class Row(Transform):
    """One row of a matrix, which the model has as a vector of its own."""

    index: int

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Transform.shape`."""
        return shapes[0][1:]

    def apply(self, tensors: Sequence[Tensor], rows: slice, facts: Facts) -> Tensor:
        """See `Transform.apply`."""
        return tensors[0][self.index][rows]


@dataclass(frozen=True)
class EachRow(Transform):
    """A matrix whose rows the model has as vectors of their own, numbered `{e}`."""

    def at(self, index: int) -> Row:
        """The transform for one of them."""
        return Row(index)


@dataclass(frozen=True)
class EachExpert(EachRow):
    """Matrices that lie stacked and the model has by themselves, numbered `{e}`.

    Each lies in the file as it is, and nothing is done to it.
    """


@dataclass(frozen=True)
class Experts(Transform):
    """Experts of one or two projections, stacked; two lie beside each other in the rows.

    Attributes:
        parts: how many projections.
    """

    packed = "decoded"
    parts: int = 1

    def rowwise(self, shapes: Sequence[Shape]) -> bool:
        """See `Transform.rowwise`."""
        return len(shapes[0]) == 3

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Transform.shape`."""
        _alike(shapes)
        if len(shapes[0]) == 3:
            return (shapes[0][0], sum(s[1] for s in shapes), shapes[0][2])
        each = len(shapes) // self.parts
        return (each, sum(s[0] for s in shapes[::each]), shapes[0][1])

    def apply(self, tensors: Sequence[Tensor], rows: slice, facts: Facts) -> Tensor:
        """See `Transform.apply`."""
        import torch

        if tensors[0].dim() == 3:
            return torch.cat([t[rows] for t in tensors], dim=1)
        each = len(tensors) // self.parts
        lots = [list(tensors[i : i + each][rows]) for i in range(0, len(tensors), each)]
        return torch.cat([torch.stack(lot) for lot in lots], dim=1)

    def revert(self, tensor: Tensor, facts: Facts) -> list[Tensor]:
        """See `Transform.revert`."""
        return list(tensor.chunk(self.parts, dim=1))


def _alike(shapes: Sequence[Shape]) -> None:
    if len(shapes[0]) not in (2, 3) or any(shape != shapes[0] for shape in shapes):
        raise CheckpointError(
            f"expected the projections of experts to be of one shape, found "
            f"{', '.join(str(list(shape)) for shape in dict.fromkeys(shapes))}"
        )


def _divides(heads: int, rows: int) -> None:
    if rows % heads:
        raise CheckpointError(
            f"expected rows for {heads} (half) heads, found {rows}: tensors and metadata of the "
            f"file do not fit together"
        )
