"""F32, F16 and BF16: numbers, no blocks."""

from __future__ import annotations

import torch
from torch import Tensor


def f32(blocks: Tensor) -> Tensor:
    """Four bytes each; a copy, so that nobody writes into the storage."""
    return blocks.view(torch.float32).clone()


def f16(blocks: Tensor) -> Tensor:
    """Two bytes each."""
    return blocks.view(torch.float16).to(torch.float32)


def bf16(blocks: Tensor) -> Tensor:
    """Two bytes each, the upper half of a float32."""
    return blocks.view(torch.bfloat16).to(torch.float32)
