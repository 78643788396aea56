"""TQ1_0 and TQ2_0: 256 elements of -1, 0 or 1 with one scale.

Source: `dequantize_row_tq*` in ggml-quants.c.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantload_gguf.blocks.fields import fields, half


def tq1_0(blocks: Tensor) -> Tensor:
    """Five digits of base 3 in a byte, as a fraction: digit i is `3 * (b * 3**i % 256) // 256`."""
    parts = ((0, 32, 5), (32, 48, 5), (48, 52, 4))
    digits = [
        torch.stack([blocks[:, a:b] * 3**i for i in range(count)], dim=1).flatten(1)
        for a, b, count in parts
    ]
    codes = (torch.cat(digits, dim=1).to(torch.int16) * 3) >> 8
    return codes.to(torch.float32).sub_(1).mul_(half(blocks, 52))


def tq2_0(blocks: Tensor) -> Tensor:
    """Two-bit codes, minus one."""
    codes = fields(blocks[:, :64].view(-1, 2, 32), 2, 4).flatten(1)
    return codes.to(torch.float32).sub_(1).mul_(half(blocks, 64))
