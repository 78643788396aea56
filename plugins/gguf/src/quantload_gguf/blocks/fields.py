"""Reading the fields of blocks: half floats, bit fields, lookups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor


def half(blocks: Tensor, start: int, count: int = 1) -> Tensor:
    """`count` half floats that begin at byte `start`: float32 `[n, count]`.

    Args:
        blocks: uint8 `[n, bytes]`, with rows that begin at even addresses.
        start: an even offset.
        count: how many.
    """
    return blocks[:, start : start + 2 * count].view(torch.float16).to(torch.float32)


def fields(codes: Tensor, width: int, count: int) -> Tensor:
    """Bit fields of bytes, lowest first, each lot beside the other.

    Args:
        codes: uint8 `[..., k]`.
        width: bits per field.
        count: fields per byte.

    Returns:
        uint8 `[..., count, k]`: entry `[..., i, j]` is field i of byte j.
    """
    mask = (1 << width) - 1
    return torch.stack([(codes >> (width * i)) & mask for i in range(count)], dim=-2)


def bytewise(codes: Tensor, width: int, count: int) -> Tensor:
    """The same, with the fields of one byte after each other: uint8 `[..., k * count]`."""
    mask = (1 << width) - 1
    parts = [(codes >> (width * i)) & mask for i in range(count)]
    return torch.stack(parts, dim=-1).flatten(-2)


def words(blocks: Tensor, start: int, stop: int, width: int) -> Tensor:
    """Little-endian unsigned words of `width` bytes: int64 `[n, (stop - start) // width]`."""
    parts = blocks[:, start:stop].to(torch.int64).view(-1, (stop - start) // width, width)
    found = parts[..., 0]
    for i in range(1, width):
        found = found | (parts[..., i] << (8 * i))
    return found


def table(values: Sequence[object]) -> Tensor:
    """A float32 tensor on the CPU, whatever default dtype and device are in force."""
    return torch.tensor(values, dtype=torch.float32, device="cpu")


@lru_cache(maxsize=64)
def on_device(make: Callable[[], Tensor], device: torch.device) -> Tensor:
    """A lookup table on a device, made once. They are few and small; see `lattices`."""
    made: Tensor = make().to(device)
    return made
