"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: 32 elements, one scale, with or without a minimum.

Source: `dequantize_row_q*` in ggml-quants.c. The low nibbles are elements 0 to 15,
the high nibbles 16 to 31.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantload_gguf.blocks.fields import bytewise, fields, half


def q4_0(blocks: Tensor) -> Tensor:
    """`d * (q - 8)`."""
    codes = fields(blocks[:, 2:], 4, 2).flatten(1)
    return codes.to(torch.float32).sub_(8).mul_(half(blocks, 0))


def q4_1(blocks: Tensor) -> Tensor:
    """`d * q + m`."""
    codes = fields(blocks[:, 4:], 4, 2).flatten(1)
    return codes.to(torch.float32).mul_(half(blocks, 0)).add_(half(blocks, 2))


def q5_0(blocks: Tensor) -> Tensor:
    """`d * (q - 16)`; bit j of the four bytes after d is the fifth bit of element j."""
    codes = fields(blocks[:, 6:], 4, 2).flatten(1)
    codes |= bytewise(blocks[:, 2:6], 1, 8) << 4
    return codes.to(torch.float32).sub_(16).mul_(half(blocks, 0))


def q5_1(blocks: Tensor) -> Tensor:
    """`d * q + m`, with fifth bits likewise."""
    codes = fields(blocks[:, 8:], 4, 2).flatten(1)
    codes |= bytewise(blocks[:, 4:8], 1, 8) << 4
    return codes.to(torch.float32).mul_(half(blocks, 0)).add_(half(blocks, 2))


def q8_0(blocks: Tensor) -> Tensor:
    """`d * q` with signed bytes."""
    return blocks[:, 2:].view(torch.int8).to(torch.float32).mul_(half(blocks, 0))
