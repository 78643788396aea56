"""Codes, scales and steps to the tensors of the kernels and back, in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload_kernels_triton import words
from quantload_kernels_triton.blocks.form import Form
from quantload_kernels_triton.geometry import TILE, Geometry


def arrange_codes(codes: Tensor, form: Form) -> tuple[Tensor, Tensor | None]:
    """The words `low` and `high` of codes.

    Args:
        codes: uint8 `[rows, columns]`, rows a multiple of 16 unless they are the last ones.
        form: of the weight.

    Returns:
        int16 `[tiles, units, 1, 256]` each; None for `high` where the form has none.
    """
    shape = codes.shape
    if not form.high_bits:
        return words.pack(codes, form.low(*shape)), None
    low = words.pack(codes & 15, form.low(*shape))
    return low, words.pack(codes >> 4, form.high(*shape))


def restore_codes(low: Tensor, high: Tensor | None, form: Form, rows: int, columns: int) -> Tensor:
    """The inverse of `arrange_codes`: uint8 `[rows, columns]`."""
    codes = _unpacked(low, form.low(rows, columns))
    if high is not None:
        codes = codes | (_unpacked(high, form.high(rows, columns)) << 4)
    return codes


def codes_of_rows(
    low: Tensor, high: Tensor | None, form: Form, columns: int, ids: Tensor
) -> Tensor:
    """The codes of some rows, uint8 `[len(ids), columns]`; see `arrange_codes`.

    Args:
        low: int16 `[tiles, units, 256]`, as is `high`.
        high: see `low`.
        form: of the weight.
        columns: how many there are.
        ids: numbers of rows, int64 `[n]`.
    """
    codes = _picked(low, form.low_bits, ids)[:, :columns]
    if high is not None:
        codes = codes | (_picked(high, form.high_bits, ids)[:, :columns] << 4)
    return codes


def _picked(packed: Tensor, bits: int, ids: Tensor) -> Tensor:
    """Fields of `bits` of some rows, in the order of columns; see `geometry`."""
    grid = packed.view(*packed.shape[:2], 8, 4, 2, 2, 2)  # tile, unit, g, t, k8, r8, p
    words = grid[ids // TILE, :, ids % 8, :, :, ids % TILE // 8].to(torch.int32)
    shifts = torch.arange(0, 16, bits, device=packed.device, dtype=torch.int32)
    fields = (words.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)  # row, unit, t, k8, p, plane
    return fields.permute(0, 1, 5, 3, 2, 4).reshape(len(ids), -1).to(torch.uint8)


def scales_of_rows(arranged: Tensor, ids: Tensor) -> Tensor:
    """The scales of some rows, `[n, groups, k]`."""
    return arranged[ids // TILE, :, ids % 8, ids % TILE // 8]


def steps_of_rows(arranged: Tensor, ids: Tensor) -> Tensor:
    """The steps of some rows, uint8 `[n, groups]`."""
    found = arranged.contiguous().view(torch.uint8).view(*arranged.shape, 2, 2)
    return found[ids // TILE, :, ids % 8, :, ids % TILE // 8].flatten(1)


def minima_of_rows(arranged: Tensor, ids: Tensor) -> Tensor:
    """The minima of some rows, uint8 `[n, groups]`."""
    tiles, supers = arranged.shape[:2]
    found = arranged.contiguous().view(torch.uint8).view(tiles, supers, 8, 4, 2, 2)
    return found[ids // TILE, :, ids % 8, :, ids % TILE // 8].flatten(1)


def _unpacked(packed: Tensor, geometry: Geometry) -> Tensor:
    return words.unpack(packed, geometry)[: geometry.rows]


def arrange_scales(scales: Tensor) -> Tensor:
    """Scales `[rows, groups, k]` as `Form.scales_shape` has them."""
    tiles = _tiles(scales)
    return tiles.permute(0, 3, 2, 1, 4).contiguous()  # tile, group, g, half, k


def restore_scales(arranged: Tensor, rows: int) -> Tensor:
    """The inverse of `arrange_scales`."""
    back = arranged.permute(0, 3, 2, 1, 4)
    return back.reshape(-1, back.shape[3], back.shape[4])[:rows]


def arrange_steps(steps: Tensor) -> Tensor:
    """Steps uint8 `[rows, groups]` as `Form.steps_shape` has them."""
    tiles = _tiles(_filled(steps, 2).unflatten(1, (-1, 2)))  # type: ignore[no-untyped-call]  # torch's
    grid = tiles.permute(0, 3, 2, 4, 1)  # tile, pair, g, one of the pair, half
    return grid.flatten(-2).contiguous().view(torch.int32).squeeze(-1)


def restore_steps(arranged: Tensor, rows: int) -> Tensor:
    """The inverse of `arrange_steps`, with an even number of groups."""
    found = arranged.contiguous().view(torch.uint8).view(*arranged.shape, 2, 2)
    back = found.permute(0, 4, 2, 1, 3)
    return back.reshape(-1, back.shape[3] * 2)[:rows]


def arrange_minima(minima: Tensor) -> Tensor:
    """Minima uint8 `[rows, groups]`, eight for 256 columns, as `Form.minima_shape` has them."""
    tiles = _tiles(minima.unflatten(1, (-1, 4, 2)))  # type: ignore[no-untyped-call]  # torch's
    grid = tiles.permute(0, 3, 2, 4, 1, 5)  # tile, super, g, t, half, p
    return grid.flatten(-2).contiguous().view(torch.int32).flatten(2)


def restore_minima(arranged: Tensor, rows: int) -> Tensor:
    """The inverse of `arrange_minima`."""
    tiles, supers = arranged.shape[:2]
    found = arranged.contiguous().view(torch.uint8).view(tiles, supers, 8, 4, 2, 2)
    back = found.permute(0, 4, 2, 1, 3, 5)
    return back.reshape(tiles * TILE, supers * 8)[:rows]


def _filled(values: Tensor, multiple: int) -> Tensor:
    """With zeros behind, so that the number of columns is a multiple."""
    return F.pad(values, (0, -values.shape[1] % multiple))


def _tiles(values: Tensor) -> Tensor:
    """`[rows, ...]` as `[tiles, 2 halves, 8 g, ...]`."""
    rows = values.shape[0]
    padding = [0, 0] * (values.dim() - 1)
    padded = F.pad(values, [*padding, 0, -rows % TILE])
    return padded.view(-1, 2, 8, *values.shape[1:])
