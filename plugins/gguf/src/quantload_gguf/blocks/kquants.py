"""Q2_K to Q6_K: 256 elements whose groups have scales that share a scale.

Source: `dequantize_row_q*_K` in ggml-quants.c.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantload_gguf.blocks.fields import fields, half


def q2_k(blocks: Tensor) -> Tensor:
    """16 groups of 16: a nibble of scale, a nibble of minimum; two-bit codes."""
    d, dmin = half(blocks, 80), half(blocks, 82)
    scales = blocks[:, :16]
    scale = (d * (scales & 15)).unsqueeze(-1)
    minimum = (dmin * (scales >> 4)).unsqueeze(-1)
    codes = fields(blocks[:, 16:80].view(-1, 2, 32), 2, 4)
    groups = codes.reshape(-1, 16, 16).to(torch.float32)
    return groups.mul_(scale).sub_(minimum).flatten(1)


def q3_k(blocks: Tensor) -> Tensor:
    """16 groups of 16 with six-bit scales; a clear bit of the mask takes 4 from a code."""
    packed = blocks[:, 96:108]
    low = fields(packed[:, :8], 4, 2).flatten(1)
    high = fields(packed[:, 8:], 2, 4).flatten(1)
    scales = (low | (high << 4)).to(torch.float32).sub_(32)
    scale = (half(blocks, 108) * scales).unsqueeze(-1)
    codes = fields(blocks[:, 32:96].view(-1, 2, 32), 2, 4).reshape(-1, 16, 16)
    keep = fields(blocks[:, :32], 1, 8).reshape(-1, 16, 16)
    return (codes | (keep << 2)).to(torch.float32).sub_(4).mul_(scale).flatten(1)


def scales_and_minima(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight six-bit scales and minima from the twelve bytes of Q4_K and Q5_K.

    Args:
        packed: uint8 `[n, 12]`. Bytes 0 to 3 and 4 to 7 hold the first four scales
            and minima in their low six bits; the nibbles of bytes 8 to 11 are the low
            bits of the last four, whose high bits lie on top of bytes 0 to 7.

    Returns:
        Scales and minima, uint8 `[n, 8]` each.
    """
    first, second, mixed = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat([first & 63, (mixed & 15) | ((first >> 2) & 48)], dim=1)
    minima = torch.cat([second & 63, (mixed >> 4) | ((second >> 2) & 48)], dim=1)
    return scales, minima


def _affine(blocks: Tensor, codes: Tensor) -> Tensor:
    scales, minima = scales_and_minima(blocks[:, 4:16])
    scale = (half(blocks, 0) * scales).unsqueeze(-1)
    minimum = (half(blocks, 2) * minima).unsqueeze(-1)
    return codes.to(torch.float32).mul_(scale).sub_(minimum).flatten(1)


def q4_k(blocks: Tensor) -> Tensor:
    """Eight groups of 32: `d * scale * q - dmin * minimum`."""
    return _affine(blocks, fields(blocks[:, 16:].view(-1, 4, 32), 4, 2).flatten(1, 2))


def q5_k(blocks: Tensor) -> Tensor:
    """The same with a fifth bit: bit k of byte j belongs to element `32 * k + j`."""
    codes = fields(blocks[:, 48:].view(-1, 4, 32), 4, 2).flatten(1, 2)
    codes |= fields(blocks[:, 16:48], 1, 8) << 4
    return _affine(blocks, codes)


def q6_k(blocks: Tensor) -> Tensor:
    """16 groups of 16 with signed bytes as scales: `d * scale * (q - 32)`."""
    scale = (half(blocks, 208) * blocks[:, 192:208].view(torch.int8)).unsqueeze(-1)
    low = fields(blocks[:, :128].view(-1, 2, 64), 4, 2).reshape(-1, 2, 4, 32)
    high = fields(blocks[:, 128:192].view(-1, 2, 32), 2, 4)
    codes = (low | (high << 4)).reshape(-1, 16, 16)
    return codes.to(torch.float32).sub_(32).mul_(scale).flatten(1)
