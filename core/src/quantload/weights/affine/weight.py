"""`AffineWeight`: group-wise integers with a scale and a zero-point per group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from quantload.errors import UnsupportedOperationError
from quantload.weights.affine import decode, offsets, sharding
from quantload.weights.affine.planes import pack_planes, row_bytes, unpack_planes
from quantload.weights.autograd import linear_through
from quantload.weights.packed import PackedWeight

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a weight's checkpoint says beyond its numbers, so that it can be written again.

    Attributes:
        format: name of the checkpoint layout it was read from ("gptq_v2", "awq_gemm").
        facts: whatever else that layout leaves open (dtype of its words, tensors that
            were absent), for its own reader and writer only.
    """

    format: str
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class AffineWeight(PackedWeight):
    """`W[o, i] = scales[o, g] * (codes[o, i] - zeros[o, g])` with `g` the group of column `i`.

    GPTQ, AWQ, and other methods that store integers per group are readers and writers
    of it. Zero-points are true values, whatever offset a file has. With `offsets` in
    the place of zero-points, `W = scales * codes + offsets`.

    Args:
        shape: `(out_features, in_features)`.
        dtype: compute dtype.
        bits: bits of a code, 2 to 8.
        group_size: columns of a group; the last group may be shorter. `in_features`
            where a row is one group.
        codes: uint8 `[out_features, row_bytes(in_features, bits)]`, see `planes`. What
            stands after the last column is zero.
        scales: float16, bfloat16 or float32 `[out_features, groups]`.
        zeros: `zeros_dtype(bits)` `[out_features, groups]`; None means `2**(bits - 1)`.
        offsets: float `[out_features, groups]`, instead of zero-points.
        g_idx: int32 `[in_features]`, the group of each column; None means
            `column // group_size`.
        origin: where it was read from, None where it was made.
        kept: tensors its origin needs, by name.

    Attributes:
        act_order: `g_idx` differs from `column // group_size`.
        symmetric: every zero-point is `2**(bits - 1)`.
        run: with the columns sorted by group, each aligned run of so many lies in one
            group; a power of two up to 256.
    """

    layout: ClassVar[str] = "affine"

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    offsets: Tensor | None
    g_idx: Tensor | None

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        *,
        bits: int,
        group_size: int,
        codes: Tensor,
        scales: Tensor,
        zeros: Tensor | None = None,
        offsets: Tensor | None = None,
        g_idx: Tensor | None = None,
        origin: Origin | None = None,
        kept: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(shape, dtype)
        self.bits = bits
        self.group_size = group_size
        self.groups = scales.shape[1]
        self.origin = origin
        self.store("codes", codes)
        self.store("scales", scales)
        self.store("zeros", zeros)
        self.store("offsets", offsets)
        self.store("g_idx", g_idx)
        for name, tensor in (kept or {}).items():
            self.store(f"kept_{name}", tensor)
        self.act_order = _is_act_order(g_idx, group_size)
        self.symmetric = _is_symmetric(zeros, offsets, bits)
        self.run = sharding.aligned_run(shape[1], group_size, g_idx if self.act_order else None)

    @classmethod
    def from_codes(
        cls,
        codes: Tensor,
        scales: Tensor,
        zeros: Tensor | None = None,
        *,
        bits: int,
        group_size: int,
        dtype: torch.dtype | None = None,
        **more: Any,
    ) -> Self:
        """Pack plain codes.

        Args:
            codes: uint8 `[out_features, in_features]`.
            scales: `[out_features, groups]`.
            zeros: integer `[out_features, groups]`, or None.
            bits: bits of a code.
            group_size: columns of a group.
            dtype: compute dtype; that of the scales where None.
            **more: see the class.
        """
        kept_zeros = None if zeros is None else zeros.to(zeros_dtype(bits)).contiguous()
        return cls(
            tuple(codes.shape),
            dtype or scales.dtype,
            bits=bits,
            group_size=group_size,
            codes=pack_planes(codes, bits),
            scales=scales.contiguous(),
            zeros=kept_zeros,
            **more,
        )

    @classmethod
    def empty(
        cls,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        *,
        bits: int,
        group_size: int,
        groups: int | None = None,
        scale_dtype: torch.dtype = torch.float16,
        has_zeros: bool = True,
        has_offsets: bool = False,
        offset_dtype: torch.dtype | None = None,
        has_g_idx: bool = False,
        g_idx_dtype: torch.dtype = torch.int32,
        symmetric: bool = False,
        act_order: bool = False,
    ) -> Self:
        """The weight on the meta device.

        Args:
            shape: `(out_features, in_features)`.
            dtype: compute dtype.
            bits: bits of a code.
            group_size: columns of a group.
            groups: number of groups; what `group_size` makes of the columns where None.
            scale_dtype: dtype of the scales.
            has_zeros: whether zero-points are stored.
            has_offsets: whether offsets are stored instead.
            offset_dtype: their dtype; that of the scales where None.
            has_g_idx: whether the groups of the columns are stored.
            g_idx_dtype: their dtype.
            symmetric: whether every zero-point is expected to be `2**(bits - 1)`.
            act_order: whether columns are expected to be out of order.
        """
        rows, columns = shape
        meta = torch.device("meta")
        size = (rows, -(-columns // group_size) if groups is None else groups)
        weight = cls(
            shape,
            dtype,
            bits=bits,
            group_size=group_size,
            codes=torch.empty((rows, row_bytes(columns, bits)), dtype=torch.uint8, device=meta),
            scales=torch.empty(size, dtype=scale_dtype, device=meta),
            zeros=torch.empty(size, dtype=zeros_dtype(bits), device=meta) if has_zeros else None,
            offsets=torch.empty(size, dtype=offset_dtype or scale_dtype, device=meta)
            if has_offsets
            else None,
            g_idx=torch.empty(columns, dtype=g_idx_dtype, device=meta) if has_g_idx else None,
        )
        weight.symmetric = not has_offsets and (symmetric or not has_zeros)
        weight.act_order = act_order and has_g_idx
        return weight

    # -- what it holds, in plain form --------------------------------------------------

    def plain_codes(self) -> Tensor:
        """Codes as uint8 `[out_features, in_features]`."""
        return unpack_planes(self.codes, self.bits, self.shape[1])

    def zero_points(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """Zero-points as integers `[out_features, groups]`, stored or not.

        Raises:
            UnsupportedOperationError: the weight has offsets instead.
        """
        if self.zeros is not None:
            return self.zeros[rows]
        if self.offsets is not None:
            raise UnsupportedOperationError(
                f"the {tuple(self.shape)} weight has float offsets and no integer zero-points"
            )
        half = torch.full(
            (), 1 << (self.bits - 1), dtype=zeros_dtype(self.bits), device=self.device
        )
        return half.expand(self.scales[rows].shape)

    def column_groups(self) -> Tensor | None:
        """The group of each column, int64 `[in_features]`; None where they are equal runs."""
        columns = self.shape[1]
        if self.act_order:
            assert self.g_idx is not None
            return self.g_idx.long()
        if columns == self.groups * self.group_size:
            return None
        return torch.arange(columns, device=self.device) // self.group_size

    def with_zero_points(self, rounded: bool = False) -> Self:
        """This weight with integer zero-points and without an origin.

        Args:
            rounded: also where its offsets were rounded, so that the result is not the
                same numbers (off by up to half a unit in the last place of an offset).

        Raises:
            UnsupportedOperationError: its offsets do not come from whole zero-points, or
                were rounded and `rounded` is False.
        """
        if self.offsets is None:
            return self._rebuilt(self.zeros, None)
        zeros = offsets.zeros_behind(self.scales, self.offsets, self.bits)
        if not rounded and not offsets.same_numbers(self.scales, zeros, self.offsets):
            raise UnsupportedOperationError(
                "the weight adds float offsets that were rounded from zero-points; with integers "
                "it would be slightly other numbers, which with_zero_points(rounded=True) allows"
            )
        return self._rebuilt(zeros.to(zeros_dtype(self.bits)), None)

    def with_offsets(self, rounded: bool = False) -> Self:
        """This weight with float offsets in the dtype of its scales; see `with_zero_points`.

        Raises:
            UnsupportedOperationError: the offsets have to be rounded and `rounded` is False.
        """
        if self.offsets is not None:
            return self._rebuilt(None, self.offsets)
        zeros = self.zero_points()
        made = offsets.rounded_offsets(self.scales, zeros)
        if not rounded and not offsets.same_numbers(self.scales, zeros, made):
            raise UnsupportedOperationError(
                f"scale * zero-point does not fit {self.scales.dtype} everywhere; rounded, the "
                f"weight would be slightly other numbers, which with_offsets(rounded=True) allows"
            )
        return self._rebuilt(None, made)

    def _rebuilt(self, zeros: Tensor | None, added: Tensor | None) -> Self:
        return type(self)(
            tuple(self.shape),
            self.dtype,
            bits=self.bits,
            group_size=self.group_size,
            codes=self.canonical().codes,
            scales=self.scales,
            zeros=zeros,
            offsets=added,
            g_idx=self.g_idx,
        )

    def kept(self) -> dict[str, Tensor]:
        """The tensors its origin needs, by name."""
        prefix = "kept_"
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.storage().items()
            if name.startswith(prefix)
        }

    def kernel_params(self) -> Mapping[str, Any]:
        """See `PackedWeight.kernel_params`."""
        return {
            "bits": self.bits,
            "group_size": self.group_size,
            "groups": self.groups,
            "act_order": self.act_order,
            "run": self.run,
            "symmetric": self.symmetric,
            "has_zeros": "zeros" in self.storage(),
            "has_offsets": "offsets" in self.storage(),
            "scale_dtype": self.scales.dtype,
        }

    # -- what a layout owes --------------------------------------------------------------

    def decode(self, dtype: torch.dtype) -> Tensor:
        """See `PackedWeight.decode`."""
        return decode.decode(self, dtype)

    def decode_rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """See `PackedWeight.decode_rows`; only the rows asked for are decoded."""
        rows = decode.decode_rows(self, ids.reshape(-1), dtype)
        return rows.view(*ids.shape, self.shape[1])

    def rows(self, ids: Tensor) -> Tensor:
        """See `PackedWeight.rows`; from a kernel's arrangement without restoring it all."""
        codes_of_rows = getattr(self._kernel, "codes_of_rows", None)
        if codes_of_rows is None or not self._arranged:
            return super().rows(ids)
        self._refuse_meta("read rows of")
        flat = ids.reshape(-1).to(self.device)
        rows = decode.numbers(self, codes_of_rows(self, flat), flat, self.dtype)
        return rows.view(*ids.shape, self.shape[1])

    def linear(self, x: Tensor) -> Tensor:
        """See `PackedWeight.linear`."""
        if self._kernel is not None or self.is_meta:
            return super().linear(x)
        if self.device.type == "cpu":
            return decode.linear(self, x)
        return linear_through(self, x)

    def shard(self, dim: int, rank: int, world: int) -> Self:
        """See `PackedWeight.shard`. A part has no origin: it was never in a checkpoint.

        Columns may be split anywhere; where a split cuts a group, and with act-order,
        the part keeps a `g_idx` (with act-order also every scale).
        """
        self._refuse_meta("split")
        return sharding.shard(self.canonical(), dim, rank, world)

    def kept_apart(self, dim: int) -> tuple[str, ...]:
        """What an origin needs; for parts of columns also what a cut group has in two of them."""
        stored = self.canonical().storage()
        return tuple(name for name in stored if name not in sharding.HELD[dim])

    def join_stored(self, name: str, pieces: Sequence[Tensor], dim: int) -> Tensor:
        """See `PackedWeight.join_stored`."""
        if dim == 0:
            return torch.cat(list(pieces))
        return sharding.join_codes(pieces, self.bits, self.shape[1])


def zeros_dtype(bits: int) -> torch.dtype:
    """The dtype of stored zero-points; `2**bits` is one of them."""
    return torch.uint8 if bits < 8 else torch.int16


def _is_act_order(g_idx: Tensor | None, group_size: int) -> bool:
    if g_idx is None or g_idx.is_meta:
        return False
    trivial = torch.arange(len(g_idx), device=g_idx.device) // group_size
    return not torch.equal(g_idx.long(), trivial)


def _is_symmetric(zeros: Tensor | None, offsets: Tensor | None, bits: int) -> bool:
    if offsets is not None:
        return False
    return zeros is None or (not zeros.is_meta and bool((zeros == 1 << (bits - 1)).all()))
