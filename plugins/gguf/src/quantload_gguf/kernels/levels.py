"""The scales of a block as they are stored: of its groups, and of the block over those.

With `q` the code of an element, the number is `outer * inner * (q - middle)`, and of types
with a minimum `outer * inner * q + outer_added * inner_added`. Where a block is one group
there is no inner part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quantload_gguf.blocks.fields import fields
from quantload_gguf.blocks.kquants import scales_and_minima

Scales = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
"""outer, inner, outer_added, inner_added: float16 `[n, 1]` and (u)int8 `[n, groups]`."""


@dataclass(frozen=True)
class Levels:
    """What `read` finds in blocks uint8 `[n, bytes]`, and the code that counts as 0."""

    middle: int
    read: Callable[[Tensor], Scales]


def _half(blocks: Tensor, start: int) -> Tensor:
    return blocks[:, start : start + 2].view(torch.float16)


def _centred(blocks: Tensor) -> Scales:
    return _half(blocks, 0), None, None, None


def _with_minimum(blocks: Tensor) -> Scales:
    return _half(blocks, 0), None, _half(blocks, 2), None


def _q2(blocks: Tensor) -> Scales:
    packed = blocks[:, :16]
    return _half(blocks, 80), packed & 15, -_half(blocks, 82), packed >> 4


def _q3(blocks: Tensor) -> Scales:
    packed = blocks[:, 96:108]
    low = fields(packed[:, :8], 4, 2).flatten(1)
    high = fields(packed[:, 8:], 2, 4).flatten(1)
    return _half(blocks, 108), (low | (high << 4)).to(torch.int8) - 32, None, None


def _q4(blocks: Tensor) -> Scales:
    scales, minima = scales_and_minima(blocks[:, 4:16])
    return _half(blocks, 0), scales, -_half(blocks, 2), minima


def _q6(blocks: Tensor) -> Scales:
    return _half(blocks, 208), blocks[:, 192:208].view(torch.int8), None, None


LEVELS: Mapping[str, Levels] = {
    "Q4_0": Levels(8, _centred),
    "Q4_1": Levels(0, _with_minimum),
    "Q5_0": Levels(16, _centred),
    "Q5_1": Levels(0, _with_minimum),
    "Q8_0": Levels(128, _centred),
    "Q2_K": Levels(0, _q2),
    "Q3_K": Levels(4, _q3),
    "Q4_K": Levels(0, _q4),
    "Q5_K": Levels(0, _q4),
    "Q6_K": Levels(32, _q6),
}
"""Type -> its scales."""
