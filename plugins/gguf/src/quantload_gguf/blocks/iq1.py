"""IQ1_S and IQ1_M: points of {-1, 0, 1}^8, shifted by an eighth.

Source: `dequantize_row_iq1_*` in ggml-quants.c.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantload_gguf.blocks.fields import bytewise, half, on_device, words
from quantload_gguf.blocks.lattices import iq1_grid

DELTA = 0.125


def iq1_s(blocks: Tensor) -> Tensor:
    """Eight groups of 32: index bytes; words of three more bits each, a scale and a sign."""
    tail = words(blocks, 34, 50, 2)
    scale = half(blocks, 0) * (2 * ((tail >> 12) & 7) + 1)
    delta = DELTA - 2 * DELTA * (tail >> 15).to(torch.float32)
    shifts = torch.arange(0, 12, 3, device=blocks.device)
    more = ((tail.unsqueeze(-1) >> shifts) & 7) << 8
    codes = blocks[:, 2:34].to(torch.int64).view(-1, 8, 4) | more
    points = on_device(iq1_grid, blocks.device)[codes]
    return points.add_(delta[..., None, None]).mul_(scale[..., None, None]).flatten(1)


def iq1_m(blocks: Tensor) -> Tensor:
    """16 groups of 16. The half scale is spread over the top nibbles of four words."""
    packed = words(blocks, 48, 56, 2)
    nibbles = (packed >> 12) << torch.arange(0, 16, 4, device=blocks.device)
    d = nibbles.sum(1, keepdim=True).to(torch.uint16).view(torch.float16).to(torch.float32)
    shifts = torch.arange(0, 12, 3, device=blocks.device)
    scale = d * (2 * ((packed.unsqueeze(-1) >> shifts) & 7) + 1).flatten(1)
    high = bytewise(blocks[:, 32:48], 4, 2)
    codes = blocks[:, :32].to(torch.int64) | ((high & 7).to(torch.int64) << 8)
    delta = DELTA - 2 * DELTA * (high >> 3).to(torch.float32)
    points = on_device(iq1_grid, blocks.device)[codes].add_(delta.unsqueeze(-1))
    return points.view(-1, 16, 16).mul_(scale.unsqueeze(-1)).flatten(1)
