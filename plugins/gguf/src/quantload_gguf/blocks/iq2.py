"""IQ2_XXS, IQ2_XS and IQ2_S: points of a lattice in eight dimensions, with signs.

Source: `dequantize_row_iq2_*` in ggml-quants.c.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantload_gguf.blocks.fields import bytewise, half, on_device, words
from quantload_gguf.blocks.lattices import (
    byte_signs,
    even_signs,
    iq2_s_grid,
    iq2_xs_grid,
    iq2_xxs_grid,
)


def iq2_xxs(blocks: Tensor) -> Tensor:
    """Eight groups of 32: four byte indices, then four times seven sign bits and a scale."""
    halves = blocks[:, 2:].view(-1, 8, 8)
    tail = words(halves[..., 4:].reshape(blocks.shape[0], 32), 0, 32, 4)
    scale = half(blocks, 0) * (0.5 + (tail >> 28).to(torch.float32)) * 0.25
    shifts = torch.arange(0, 28, 7, device=blocks.device)
    signs = on_device(even_signs, blocks.device)[(tail.unsqueeze(-1) >> shifts) & 127]
    points = on_device(iq2_xxs_grid, blocks.device)[halves[..., :4].to(torch.int64)]
    return points.mul_(scale[..., None, None]).mul_(signs).flatten(1)


def iq2_xs(blocks: Tensor) -> Tensor:
    """16 groups of 16: words of nine index and seven sign bits, then nibbles of scales."""
    codes = words(blocks, 2, 66, 2).view(-1, 16, 2)
    scale = _scales(blocks, 66, 74)
    points = on_device(iq2_xs_grid, blocks.device)[codes & 511]
    signs = on_device(even_signs, blocks.device)[codes >> 9]
    return points.mul_(scale[..., None, None]).mul_(signs).flatten(1)


def iq2_s(blocks: Tensor) -> Tensor:
    """16 groups of 16: index bytes, sign bytes, two more index bits each, nibbles of scales."""
    codes = blocks[:, 2:34].to(torch.int64) | (
        bytewise(blocks[:, 66:74], 2, 4).to(torch.int64) << 8
    )
    scale = _scales(blocks, 74, 82)
    points = on_device(iq2_s_grid, blocks.device)[codes.view(-1, 16, 2)]
    signs = on_device(byte_signs, blocks.device)[blocks[:, 34:66].to(torch.int64)]
    return points.mul_(scale[..., None, None]).flatten(1).mul_(signs.flatten(1))


def _scales(blocks: Tensor, start: int, stop: int) -> Tensor:
    nibbles = bytewise(blocks[:, start:stop], 4, 2).to(torch.float32)
    return half(blocks, 0) * (0.5 + nibbles) * 0.25
