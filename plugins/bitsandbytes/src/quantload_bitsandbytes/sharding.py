"""Splitting weights among processes, number for number."""

from __future__ import annotations

import dataclasses

import torch

from quantload.plugin import UnsupportedOperationError
from quantload_bitsandbytes.weights import Bnb4Weight, Bnb8Weight


def span(size: int, rank: int, world: int, what: str) -> tuple[int, int]:
    """The part of one process of `size` rows or columns.

    Raises:
        UnsupportedOperationError: the parts would not be equal.
    """
    if size % world or not 0 <= rank < world:
        raise UnsupportedOperationError(
            f"{size} {what} cannot be split into {world} equal parts (part {rank} was asked for)"
        )
    each = size // world
    return rank * each, (rank + 1) * each


def shard_4bit(weight: Bnb4Weight, dim: int, rank: int, world: int) -> Bnb4Weight:
    """Some rows (`dim` 0) or columns (`dim` 1) of a 4-bit weight, of whole blocks.

    The absmax of a part of a doubly quantized weight are kept in float32, for their
    groups of 256 are cut elsewhere.

    Raises:
        UnsupportedOperationError: a block would be cut.
    """
    rows, columns = weight.shape
    block, state = weight.state.block_size, weight.state
    start, stop = span(weight.shape[dim], rank, world, "columns" if dim else "rows")
    run = (stop - start) if dim else (stop - start) * columns
    if run % block or (dim and columns % block):
        raise UnsupportedOperationError(
            f"a weight of shape {list(weight.shape)} in blocks of {block} cannot be split into "
            f"{world} parts along dimension {dim}: a block would be cut"
        )
    absmax, packed = weight.block_absmax().detach(), weight.packed.detach()
    if dim:
        packed = packed.view(rows, columns // 2)[:, start // 2 : stop // 2].reshape(-1)
        absmax = absmax.view(rows, columns // block)[:, start // block : stop // block]
        # One block per row would stay a view with gaps, which kernels do not expect.
        absmax = absmax.reshape(-1).clone(memory_format=torch.contiguous_format)
    else:
        packed = packed[start * columns // 2 : stop * columns // 2].clone()
        absmax = absmax[start * columns // block : stop * columns // block].clone()
    shape = (rows, stop - start) if dim else (stop - start, columns)
    part = dataclasses.replace(state, shape=shape, nested_block_size=None, nested_offset=0.0)
    return Bnb4Weight(
        shape,
        weight.dtype,
        state=part,
        state_bytes=part.to_bytes(),
        storage_dtype=packed.dtype,
        storage_shape=(packed.numel(), 1),
        packed=packed,
        absmax=absmax,
        quant_map=weight.quant_map.detach().clone(),
        standard=weight.standard,
    )


def shard_8bit(weight: Bnb8Weight, dim: int, rank: int, world: int) -> Bnb8Weight:
    """Some rows (`dim` 0) or columns (`dim` 1) of an 8-bit weight."""
    start, stop = span(weight.shape[dim], rank, world, "columns" if dim else "rows")
    codes, scales = weight.codes.detach(), weight.scales.detach()
    return Bnb8Weight(
        (weight.shape[0], stop - start) if dim else (stop - start, weight.shape[1]),
        weight.dtype,
        codes=(codes[:, start:stop] if dim else codes[start:stop]).clone(),
        scales=(scales if dim else scales[start:stop]).clone(),
        threshold=weight.threshold,
        format_shape=weight.format_shape,
    )
