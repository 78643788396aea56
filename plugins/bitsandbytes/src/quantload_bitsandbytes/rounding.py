"""Exact rounding of numbers to the nearest of 16 values, two at a time, by table lookups.

The library (0.50.2, CPU) takes the midpoints of the sorted values as bounds and counts
how many lie strictly below a number. Searching costs several compares per number; here
the upper half of a float32 indexes a table, for no two bounds share an upper half:

* an entry holds the code for that upper half, and how far the lower half is from the
  bound inside it, so that adding the lower half carries into the code exactly where the
  bound is crossed. Magnitudes of negative numbers grow as their rank falls, so negative
  numbers count in symbols of their own (16 to 31), downwards from the top rank;
* a second table turns two symbols into one byte of two codes, the first in the high half.

CUDA kernels of the library use bounds that were written out in decimal and differ from
the midpoints in the last bit for some codes; see `quantize4`.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from quantload_bitsandbytes.codebooks import codebook

SYMBOLS = 32


class RoundingTable:
    """Lookup tables of one 4-bit type on one device.

    Attributes:
        bounds: the 15 midpoints, float32, rising.
        order: the code of each rank, int64 `[16]`.
        symbols: int32 `[65536]`, by upper half of a float32.
        pairs: uint8, by two neighbouring symbol bytes read as one int16.
    """

    def __init__(self, quant_type: str, device: torch.device) -> None:
        values = codebook(quant_type)
        # The library sorts with argsort, which is what decides between the zeros of FP4.
        order = torch.argsort(values)
        bounds = (values[order[:-1]] + values[order[1:]]) / 2
        self.bounds = bounds.to(device)
        self.order = order.to(device)
        self.symbols = _symbol_table(bounds).to(device)
        self.pairs = _pair_table(order).to(device)


@functools.cache
def rounding_table(quant_type: str, device: torch.device) -> RoundingTable:
    """The tables of a 4-bit type on a device, made once."""
    with torch.inference_mode(mode=False):
        return RoundingTable(quant_type, device)


def _symbol_table(bounds: Tensor) -> Tensor:
    """Entry for each upper half: `symbol << 16`, plus the way to the bound inside it."""
    top = bounds.numel()
    halves = torch.arange(65536, dtype=torch.int64, device="cpu")
    negative = halves >= 32768
    first = _float_from_bits(halves << 16)
    rank = torch.bucketize(first, bounds)
    table = torch.where(negative, SYMBOLS // 2 + top - rank, rank) << 16
    # NaN: no bound is found to be above it.
    table[torch.isnan(_float_from_bits((halves << 16) | 0xFFFF))] = top << 16
    bits = bounds.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    upper, lower = bits >> 16, bits & 0xFFFF
    if len(set(upper.tolist())) != top:
        raise AssertionError("two bounds share the upper half of a float32")
    # A positive number passes its bound when it is above it, a negative one when it reaches
    # it; where a negative bound has no lower half, all that share its upper half have.
    table[upper] += torch.where(upper >= 32768, -lower & 0xFFFF, 0xFFFF - lower)
    return table.to(torch.int32)


def _float_from_bits(bits: Tensor) -> Tensor:
    return torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32).view(torch.float32)


def _pair_table(order: Tensor) -> Tensor:
    symbols = torch.arange(SYMBOLS, device="cpu")
    top = order.numel() - 1
    rank = torch.where(symbols < SYMBOLS // 2, symbols, SYMBOLS // 2 + top - symbols)
    codes = order[rank.clamp(0, top)]
    first, second = (t.flatten() for t in torch.meshgrid(symbols, symbols, indexing="ij"))
    # The index is read the way the bytes will be, whatever the byte order.
    index = torch.stack([first, second], 1).to(torch.uint8).view(torch.int16).flatten()
    table = torch.zeros(SYMBOLS * 256, dtype=torch.uint8, device="cpu")
    table[index.to(torch.int64)] = ((codes[first] << 4) | codes[second]).to(torch.uint8)
    return table
