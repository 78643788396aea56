"""`GgufWeight`: a weight that stays in its ggml blocks."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload.weights.packed import PackedWeight
from quantload_gguf.blocks import dequantize
from quantload_gguf.ggml import GgmlType, ggml_type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

LINEAR_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Elements of a weight that the reference product decodes at a time."""


class GgufWeight(PackedWeight):
    """Blocks of one ggml type.

    Args:
        blocks: uint8 `[*shape[:-1], bytes per row]`.
        kind: the ggml type.
        shape: logical shape, `(out_features, in_features)`; experts have one more
            dimension in front.
        dtype: compute dtype.
    """

    layout: ClassVar[str] = "ggml"

    def __init__(
        self, blocks: Tensor, kind: GgmlType, shape: Sequence[int], dtype: torch.dtype
    ) -> None:
        super().__init__(tuple(shape), dtype)
        self.ggml_type = kind
        self.store("blocks", blocks)

    @classmethod
    def from_blocks(
        cls,
        blocks: Tensor | NDArray[np.uint8],
        ggml_type: str | int | GgmlType,
        shape: Sequence[int] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> GgufWeight:
        """A weight over blocks, which are kept as they are.

        Args:
            blocks: uint8 `[rows, bytes per row]` (or `[experts, rows, bytes per row]`), also as
                an array of numpy.
            ggml_type: of the blocks, by name ("Q4_K") or number (12).
            shape: logical shape `(rows, columns)`; worked out from the blocks where None.
            dtype: compute dtype.

        Raises:
            CheckpointError: no such type, or the blocks are not those of such a shape.
            UnsupportedOperationError: the type holds no weights.
        """
        kind = _weight_type(ggml_type)
        if not isinstance(blocks, Tensor):
            try:
                blocks = torch.as_tensor(blocks)
            except (TypeError, ValueError, RuntimeError) as error:
                raise CheckpointError(
                    f"expected blocks of {kind.name} as a tensor or an array, found "
                    f"{type(blocks).__name__}"
                ) from error
        if blocks.dtype != torch.uint8 or blocks.dim() < 2 or blocks.shape[-1] % kind.nbytes:
            raise CheckpointError(
                f"expected blocks of {kind.name} as uint8 [rows, a multiple of {kind.nbytes}], "
                f"found {str(blocks.dtype).removeprefix('torch.')} {list(blocks.shape)}"
            )
        columns = blocks.shape[-1] // kind.nbytes * kind.elements
        logical = _shape(shape) if shape is not None else (*blocks.shape[:-1], columns)
        stored = (*logical[:-1], kind.row_bytes(logical[-1]))
        if tuple(blocks.shape) != stored:
            raise CheckpointError(
                f"expected blocks of shape {list(stored)} for a {kind.name} weight of shape "
                f"{list(logical)}, found {list(blocks.shape)}"
            )
        return cls(blocks.contiguous(), kind, logical, dtype)

    def _canonical_blocks(self) -> Tensor:
        return self.canonical().storage()["blocks"]

    def decode(self, dtype: torch.dtype) -> Tensor:
        """The numbers, `[*shape]`."""
        return dequantize(self.storage()["blocks"], self.ggml_type, dtype)

    def decode_rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Only the rows that are asked for are decoded."""
        picked = self.storage()["blocks"].index_select(0, ids.reshape(-1).to(self.device))
        rows = dequantize(picked, self.ggml_type, dtype)
        return rows.view(*ids.shape, *rows.shape[1:])

    def rows(self, ids: Tensor) -> Tensor:
        """See `PackedWeight.rows`; from a kernel's arrangement without restoring it all."""
        blocks_of_rows = getattr(self.kernel, "blocks_of_rows", None)
        if blocks_of_rows is None:
            return super().rows(ids)
        self._refuse_meta("read rows of")
        blocks = blocks_of_rows(self, ids.reshape(-1).to(self.device))
        return dequantize(blocks, self.ggml_type, self.dtype).view(*ids.shape, self.shape[-1])

    def linear(self, x: Tensor) -> Tensor:
        """See `PackedWeight.linear`; without a kernel, a part of the rows at a time."""
        if self.kernel is not None or (torch.is_grad_enabled() and x.requires_grad):
            return super().linear(x)
        self._refuse_meta("multiply with")
        step = max(1, LINEAR_ELEMENTS.get(x.device.type, 1 << 26) // max(1, self.shape[-1]))
        blocks = self.storage()["blocks"]
        if blocks.shape[0] <= step or self.ndim != 2:
            return F.linear(x, self.decode(x.dtype))
        parts = [
            F.linear(x, dequantize(part, self.ggml_type, x.dtype))
            for part in torch.split(blocks, step)
        ]
        return torch.cat(parts, dim=-1)

    def kernel_params(self) -> Mapping[str, Any]:
        """The ggml type by name."""
        return {"ggml_type": self.ggml_type.name}

    def take_rows(self, index: Tensor) -> GgufWeight:
        """A weight whose rows are these rows of this one; nothing is decoded.

        Args:
            index: int64 `[n]`, in any order; a permutation reorders the rows.
        """
        blocks = self._canonical_blocks().index_select(0, index.to(self.device))
        return GgufWeight(blocks, self.ggml_type, (len(index), *self.shape[1:]), self.dtype)

    def shard(self, dim: int, rank: int, world: int) -> Self:
        """Rows (`dim` 0) or whole blocks of columns (`dim` 1) of one of `world` processes.

        Raises:
            UnsupportedOperationError: the dimension cannot be cut into as many equal
                parts, or a cut would go through a block.
        """
        axis = dim % self.ndim
        size = self.shape[axis]
        last = axis == self.ndim - 1
        unit = self.ggml_type.elements if last else 1
        if size % (world * unit):
            raise UnsupportedOperationError(
                f"dimension {dim} of a {self.ggml_type.name} weight of shape {list(self.shape)} "
                f"cannot be cut into {world} equal parts"
                + (f" of whole blocks of {unit} elements" if last else "")
            )
        blocks = self._canonical_blocks()
        width = blocks.shape[axis] // world
        part = blocks.narrow(axis, rank * width, width).contiguous()
        shape = [n // world if i == axis else n for i, n in enumerate(self.shape)]
        return type(self)(part, self.ggml_type, shape, self.dtype)

    def join_stored(self, name: str, pieces: Sequence[Tensor], dim: int) -> Tensor:
        """See `PackedWeight.join_stored`."""
        return torch.cat(list(pieces), dim % self.ndim)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"{self.ggml_type.name}, {super().extra_repr()}"


def _shape(given: Sequence[int]) -> tuple[int, ...]:
    try:
        found = tuple(operator.index(size) for size in given)
    except TypeError:
        found = ()
    if len(found) < 2:
        raise CheckpointError(f"expected a shape (rows, columns), found {given!r}")
    return found


def _weight_type(which: str | int | GgmlType) -> GgmlType:
    kind = ggml_type(which)
    if not kind.decodable:
        raise UnsupportedOperationError(f"{kind.name} is no type for weights")
    return kind
