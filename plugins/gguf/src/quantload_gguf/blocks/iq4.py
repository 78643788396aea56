"""IQ4_NL and IQ4_XS: four-bit codes of sixteen uneven levels.

Source: `dequantize_row_iq4_*` in ggml-quants.c.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantload_gguf.blocks.fields import bytewise, fields, half, on_device, words
from quantload_gguf.blocks.lattices import iq4_values


def iq4_nl(blocks: Tensor) -> Tensor:
    """32 elements with one scale, nibbles as in Q4_0."""
    codes = fields(blocks[:, 2:], 4, 2).flatten(1)
    return on_device(iq4_values, blocks.device)[codes.to(torch.int64)].mul_(half(blocks, 0))


def iq4_xs(blocks: Tensor) -> Tensor:
    """Eight groups of 32 with six-bit scales: two high bits in a word, four low in bytes."""
    shifts = torch.arange(0, 16, 2, device=blocks.device)
    high = (words(blocks, 2, 4, 2) >> shifts) & 3
    low = bytewise(blocks[:, 4:8], 4, 2)
    scale = half(blocks, 0) * ((low | (high << 4)) - 32)
    codes = fields(blocks[:, 8:].view(-1, 8, 16), 4, 2).flatten(2)
    values = on_device(iq4_values, blocks.device)[codes.to(torch.int64)]
    return values.mul_(scale.unsqueeze(-1)).flatten(1)
