"""Splitting an `AffineWeight` between processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from quantload.errors import UnsupportedOperationError
from quantload.weights.affine.planes import pack_planes, unpack_planes

if TYPE_CHECKING:
    from quantload.weights.affine.weight import AffineWeight

    W = TypeVar("W", bound=AffineWeight)


def shard(weight: W, dim: int, rank: int, world: int) -> W:
    """Part `rank` of `world` along the rows (`dim` 0) or the columns (`dim` 1).

    Raises:
        UnsupportedOperationError: the dimension does not divide evenly.
    """
    if dim not in (0, 1) or not 0 <= rank < world or weight.shape[dim] % world:
        raise UnsupportedOperationError(
            f"a weight of shape {tuple(weight.shape)} cannot be split along dimension {dim} into "
            f"{world} equal parts (part {rank} was asked for)"
        )
    size = weight.shape[dim] // world
    part = slice(rank * size, (rank + 1) * size)
    return _rows(weight, part) if dim == 0 else _columns(weight, part)


def _rows(weight: W, part: slice) -> W:
    return type(weight)(
        (part.stop - part.start, weight.shape[1]),
        weight.dtype,
        bits=weight.bits,
        group_size=weight.group_size,
        codes=weight.codes[part].clone(),
        scales=weight.scales[part].clone(),
        zeros=_cut(weight.zeros, part),
        offsets=_cut(weight.offsets, part),
        g_idx=weight.g_idx,
    )


def _columns(weight: W, part: slice) -> W:
    size = part.stop - part.start
    g_idx: Tensor | None = None
    groups = slice(0, weight.groups)
    if weight.act_order:
        assert weight.g_idx is not None
        g_idx = weight.g_idx[part].clone()
    else:
        groups = slice(part.start // weight.group_size, -(-part.stop // weight.group_size))
        if part.start % weight.group_size:
            columns = torch.arange(part.start, part.stop, device=weight.device)
            g_idx = (columns // weight.group_size - groups.start).to(torch.int32)
    return type(weight)(
        (weight.shape[0], size),
        weight.dtype,
        bits=weight.bits,
        group_size=min(weight.group_size, size) if g_idx is None else weight.group_size,
        codes=pack_planes(weight.plain_codes()[:, part], weight.bits),
        scales=weight.scales[:, groups].clone(),
        zeros=_cut(weight.zeros, (slice(None), groups)),
        offsets=_cut(weight.offsets, (slice(None), groups)),
        g_idx=g_idx,
    )


def _cut(tensor: Tensor | None, part: slice | tuple[slice, slice]) -> Tensor | None:
    return None if tensor is None else tensor[part].clone()


HELD = (("codes", "scales", "zeros", "offsets"), ("codes",))
"""What parts of rows, and of columns, hold between them."""


def join_codes(pieces: Sequence[Tensor], bits: int, columns: int) -> Tensor:
    """Packed codes of all columns from those of equal parts.

    Args:
        pieces: uint8 `[out_features, row_bytes(columns / n, bits)]`, n of them.
        bits: of a code.
        columns: of the whole.
    """
    each = columns // len(pieces)
    return pack_planes(torch.cat([unpack_planes(p, bits, each) for p in pieces], 1), bits)


def aligned_run(columns: int, group_size: int, g_idx: Tensor | None) -> int:
    """The largest power of two up to 256 that divides the size of every group.

    Args:
        columns: number of columns.
        group_size: their group size, where `g_idx` is None.
        g_idx: the group of each column.
    """
    sizes = [min(group_size, columns), columns]
    if g_idx is not None:
        sizes = [int(n) for n in torch.bincount(g_idx.long())]
    run = math.gcd(256, *sizes)
    return run & -run
