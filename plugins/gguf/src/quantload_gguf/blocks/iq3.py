"""IQ3_XXS and IQ3_S: points of a lattice in four dimensions, with signs.

Source: `dequantize_row_iq3_*` in ggml-quants.c.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantload_gguf.blocks.fields import bytewise, half, on_device, words
from quantload_gguf.blocks.lattices import byte_signs, even_signs, iq3_s_grid, iq3_xxs_grid


def iq3_xxs(blocks: Tensor) -> Tensor:
    """64 index bytes, then per group of 32 four times seven sign bits and a scale."""
    tail = words(blocks, 66, 98, 4)
    scale = half(blocks, 0) * (0.5 + (tail >> 28).to(torch.float32)) * 0.5
    shifts = torch.arange(0, 28, 7, device=blocks.device)
    signs = on_device(even_signs, blocks.device)[(tail.unsqueeze(-1) >> shifts) & 127]
    points = on_device(iq3_xxs_grid, blocks.device)[blocks[:, 2:66].to(torch.int64)]
    return points.view(-1, 8, 4, 8).mul_(scale[..., None, None]).mul_(signs).flatten(1)


def iq3_s(blocks: Tensor) -> Tensor:
    """64 index bytes, a ninth bit each, sign bytes, and nibbles `s` of scales `1 + 2 s`."""
    codes = blocks[:, 2:66].to(torch.int64) | (
        bytewise(blocks[:, 66:74], 1, 8).to(torch.int64) << 8
    )
    nibbles = bytewise(blocks[:, 106:110], 4, 2).to(torch.float32)
    scale = half(blocks, 0) * (1 + 2 * nibbles)
    points = on_device(iq3_s_grid, blocks.device)[codes].view(-1, 8, 32)
    signs = on_device(byte_signs, blocks.device)[blocks[:, 74:106].to(torch.int64)]
    return points.mul_(scale.unsqueeze(-1)).flatten(1).mul_(signs.flatten(1))
