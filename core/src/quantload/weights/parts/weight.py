"""`PartsWeight`: a packed weight that says what it stores, and need not say more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from quantload.errors import UnsupportedOperationError
from quantload.weights.packed import PackedWeight
from quantload.weights.parts.declaring import Axis, Part, Setting

if TYPE_CHECKING:
    from typing_extensions import Self


class PartsWeight(PackedWeight):
    """Base of weights whose storage is declared in the body of the class.

    A subclass names its layout, declares each tensor with `part` and each field of the
    config that it needs with `setting`, and implements `decode`:

        class RowInt8Weight(PartsWeight):
            layout = "row-int8"
            codes: Tensor = part("int8", "out", "in")
            scale: Tensor = part("float32", "out", 1)

            def decode(self, dtype):
                return (self.codes * self.scale).to(dtype)

    Reading, checking, writing, splitting and the rows of an embedding follow from that;
    see `quantload.quantizers.parts.PartsQuantizer`.

    Args:
        shape: `(out_features, in_features)`.
        dtype: compute dtype.
        tensors: every declared part, by name.
        settings: every declared setting, by name.

    Attributes:
        parts: the declared tensors, by name; the names are those in a checkpoint.
        settings: names of the declared settings; each is an attribute of the weight.
    """

    parts: ClassVar[Mapping[str, Part]] = {}
    settings: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take what the body declares; `nn.Module` keeps the tensors under the same names."""
        super().__init_subclass__(**kwargs)
        own = dict(vars(cls))
        parts = {name: value for name, value in own.items() if isinstance(value, Part)}
        settings = [name for name, value in own.items() if isinstance(value, Setting)]
        for name in (*parts, *settings):
            delattr(cls, name)
        cls.parts = {**cls.parts, **parts}
        cls.settings = (*cls.settings, *settings)
        asked = {n for p in cls.parts.values() for d in p.shape for n in d.names()}
        unknown = sorted(asked - set(cls.settings))
        if unknown:
            raise TypeError(
                f"{cls.__name__}: shapes name {', '.join(unknown)}; declare each as a setting() "
                f"of the class, and as a field of the config"
            )

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        tensors: Mapping[str, Tensor],
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(shape, dtype)
        for name in self.settings:
            setattr(self, name, (settings or {})[name])
        for name in self.parts:
            self.store(name, tensors[name])

    def kernel_params(self) -> Mapping[str, Any]:
        """The settings, by name."""
        return {name: getattr(self, name) for name in self.settings}

    def decode_rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """See `PackedWeight.decode_rows`; only the rows asked for are decoded, where that can be.

        It can where every part that follows "out" has a row for each of the weight's.
        """
        first = [part.shape[0].text == "out" for part in self.parts.values()]
        follows = [part.axis("out") is not None for part in self.parts.values()]
        if first != follows or not ids.numel():
            return super().decode_rows(ids, dtype)
        flat = ids.reshape(-1)
        chosen = {
            name: tensor[flat] if by_row else tensor
            for (name, tensor), by_row in zip(self._stored().items(), first, strict=True)
        }
        rows = self._like((flat.numel(), self.shape[1]), chosen).decode(dtype)
        return rows.view(*ids.shape, self.shape[1])

    def shard(self, dim: int, rank: int, world: int) -> Self:
        """See `PackedWeight.shard`: each part is cut along the dimension that follows the axis.

        Raises:
            UnsupportedOperationError: the cut would go through a group, or is uneven.
        """
        self._refuse_meta("split")
        own, axis = self.canonical(), _AXES[dim]
        if self.shape[dim] % world:
            raise UnsupportedOperationError(
                f"{self.shape[dim]} along dimension {dim} cannot be split into {world} equal parts"
            )
        shape = [*self.shape]
        shape[dim] //= world
        pieces = {}
        for name, tensor in own._stored().items():
            declared = self.parts[name]
            along = declared.axis(axis)
            if along is None:
                pieces[name] = tensor.clone()
                continue
            size = declared.shape[along].size(tuple(shape), self.kernel_params())
            pieces[name] = tensor.narrow(along, rank * size, size).contiguous().clone()
        return own._like(tuple(shape), pieces)

    def join_stored(self, name: str, pieces: Sequence[Tensor], dim: int) -> Tensor:
        """See `PackedWeight.join_stored`: the other way round."""
        along = self.parts[name].axis(_AXES[dim])
        return pieces[0] if along is None else torch.cat(list(pieces), along)

    def _stored(self) -> dict[str, Tensor]:
        held = self.storage()
        return {name: held[name] for name in self.parts}

    def _like(self, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> Self:
        return type(self)(shape, self.dtype, tensors, self.kernel_params())


_AXES: dict[int, Axis] = {0: "out", 1: "in"}
