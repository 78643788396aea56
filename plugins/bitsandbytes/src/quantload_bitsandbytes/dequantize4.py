"""4-bit codes back to floats, right for every shape: codes and blocks are taken flat.

A byte holds two codes, so a table of 256 entries gives two float32 values at a time, read
as one 64-bit integer; each is multiplied with the absmax of its block in float32 and
rounded once, to the dtype asked for. That is what the library's plain-torch and CUDA
paths do. Its AVX-512 kernel (0.50.2) does the same arithmetic and is several times
faster, but takes `in_features // block_size` blocks a row and so reads the absmax of
wrong blocks where blocks cross rows; see `library` for how it is called nevertheless.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1 << 18
"""Elements dequantized at a time on a CPU: their float32 values stay in its cache."""


def dequantize_4bit(
    packed: Tensor,
    absmax: Tensor,
    values: Tensor,
    block_size: int,
    n: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The first `n` values of a flat weight, `[n]`.

    Args:
        packed: uint8, flat; two codes a byte, the first in the high half.
        absmax: float32 `[>= ceil(n / block_size)]`.
        values: what each code stands for, float32 `[16]`.
        block_size: elements that share an absmax; even.
        n: number of elements.
        dtype: of the result.
    """
    out = torch.empty(n, dtype=dtype, device=packed.device)
    pairs = pair_table(values)
    step = CHUNK if packed.device.type == "cpu" else n or 1
    step = max(step - step % block_size, block_size)
    for start in range(0, n, step):
        stop = min(start + step, n)
        _decode(
            packed[start // 2 : (stop + 1) // 2],
            absmax[start // block_size : -(-stop // block_size)],
            pairs,
            block_size,
            out[start:stop],
        )
    return out


def pair_table(values: Tensor) -> Tensor:
    """int64 `[256]`: the two float32 values of every byte, as they lie in memory."""
    codes = torch.arange(256, device=values.device)
    both = torch.stack([values[codes >> 4], values[codes & 15]], 1)
    return both.contiguous().view(torch.int64).view(-1)


def _decode(packed: Tensor, absmax: Tensor, pairs: Tensor, block_size: int, out: Tensor) -> None:
    both = pairs.index_select(0, packed.to(torch.int32))
    n = out.numel()
    decoded = both.view(torch.float32)[:n]
    full = n - n % block_size
    whole = full // block_size
    blocks = decoded[:full].view(-1, block_size)
    if out.dtype == torch.float32:
        torch.mul(blocks, absmax[:whole].unsqueeze(1), out=out[:full].view(-1, block_size))
    else:
        out[:full].view(-1, block_size).copy_(blocks.mul_(absmax[:whole].unsqueeze(1)))
    if full < n:
        out[full:].copy_(decoded[full:] * absmax[whole])
