"""From canonical storage to the kernels' arrangement and back, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.weights.affine import zeros_dtype
from quantload.weights.affine.planes import pack_planes, unpack_planes
from quantload_kernels_triton import words
from quantload_kernels_triton.geometry import Geometry

if TYPE_CHECKING:
    from quantload.weights.affine import AffineWeight

WIDEST_RUN = 256


def geometry_of(weight: AffineWeight) -> Geometry:
    """The sizes of a weight's arrangement."""
    return Geometry(weight.bits, weight.shape[0], weight.shape[1])


def run_of(groups: int, run: int, act_order: bool) -> int:
    """Columns that surely share a group, aligned, once the columns are sorted by group."""
    return WIDEST_RUN if groups == 1 and not act_order else run


def arrange(weight: AffineWeight) -> dict[str, Tensor | None]:
    """The storage of a weight as the kernels read it.

    Returns:
        words: int16 `[tiles, units, blocks, 256]`, see `geometry`; columns sorted by group.
        scales: `[groups, tiles, 8, 2]`: of row `16 * tile + 8 * k + i` at `[..., i, k]`.
        zeros: likewise, int16. Empty where all are `2**(bits - 1)`, None where the weight
            has none. The offsets in their own dtype, where the weight has those.
        order: int32 `[in_features]`, the columns sorted by group; None where they are.
        segments: int32 `[in_features // run]`, the group of each run of sorted columns;
            None where every group but the last has `group_size` columns.
        g_idx, kept_*: as they were.
    """
    geometry = geometry_of(weight)
    order = None
    if weight.act_order and weight.g_idx is not None:
        order = torch.argsort(weight.g_idx, stable=True)
    packed = torch.empty(geometry.words_shape, dtype=torch.int16, device=weight.device)
    for tiles in words.tile_runs(geometry):
        rows = words.rows_of(tiles, geometry)
        codes = unpack_planes(weight.codes[rows], weight.bits, geometry.columns)
        packed[tiles] = words.pack(codes if order is None else codes[:, order], geometry)
    return {
        "words": packed,
        "scales": to_pairs(weight.scales, geometry),
        "zeros": _pack_zeros(weight, geometry),
        "order": None if order is None else order.to(torch.int32),
        "segments": None if order is None else _segments(weight, order),
        "offsets": None,
        "g_idx": weight.g_idx,
        **{f"kept_{name}": tensor for name, tensor in weight.kept().items()},
    }


def restore(weight: AffineWeight) -> dict[str, Tensor | None]:
    """Canonical storage from what `arrange` made of it."""
    geometry = geometry_of(weight)
    order = weight.order.long() if isinstance(weight.order, Tensor) else None
    added, zeros = None, weight.zeros
    if zeros is not None and zeros.is_floating_point():
        added, zeros = from_pairs(zeros, geometry), None
    parts = []
    arranged = weight.storage()["words"]
    for tiles in words.tile_runs(geometry):
        rows = words.rows_of(tiles, geometry)
        codes = words.unpack(arranged[tiles], geometry)[: rows.stop - rows.start]
        if order is not None:
            codes = torch.empty_like(codes).index_copy_(1, order, codes.contiguous())
        parts.append(pack_planes(codes, weight.bits))
    return {
        "codes": parts[0] if len(parts) == 1 else torch.cat(parts),
        "scales": from_pairs(weight.scales, geometry),
        "zeros": _unpack_zeros(weight, zeros, geometry),
        "offsets": added,
        "g_idx": weight.g_idx,
        **{f"kept_{name}": tensor for name, tensor in weight.kept().items()},
    }


def to_pairs(values: Tensor, geometry: Geometry) -> Tensor:
    """Values `[rows, groups]` as `[groups, tiles, 8, 2]`; see `arrange`."""
    padded = F.pad(values, (0, 0, 0, geometry.padded_rows - geometry.rows))
    pairs = padded.view(geometry.tiles, 2, 8, -1).permute(3, 0, 2, 1)
    return pairs.contiguous()


def from_pairs(pairs: Tensor, geometry: Geometry) -> Tensor:
    """The inverse of `to_pairs`."""
    values = pairs.permute(1, 3, 2, 0).reshape(geometry.padded_rows, -1)
    return values[: geometry.rows].contiguous()


def _pack_zeros(weight: AffineWeight, geometry: Geometry) -> Tensor | None:
    if weight.offsets is not None:
        return to_pairs(weight.offsets, geometry)
    if weight.zeros is None:
        return None
    if weight.symmetric:
        return weight.zeros.new_empty((0,), dtype=torch.int16)
    return to_pairs(weight.zeros.to(torch.int16), geometry)


def _unpack_zeros(weight: AffineWeight, zeros: Tensor | None, geometry: Geometry) -> Tensor | None:
    dtype = zeros_dtype(weight.bits)
    if zeros is None:
        return None
    if zeros.numel() == 0:
        size = (geometry.rows, weight.groups)
        return torch.full(size, 1 << (weight.bits - 1), dtype=dtype, device=zeros.device)
    return from_pairs(zeros, geometry).to(dtype)


def _segments(weight: AffineWeight, order: Tensor) -> Tensor | None:
    assert weight.g_idx is not None
    groups = weight.g_idx.long()[order]
    regular = torch.arange(len(groups), device=groups.device) // weight.group_size
    if torch.equal(groups, regular):
        return None
    return groups[:: weight.run].to(torch.int32).contiguous()
