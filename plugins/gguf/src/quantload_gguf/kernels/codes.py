"""Blocks taken apart into whole-number codes and the scales beside them, and put together.

Every type here is affine: with `q` the code of an element and `s`, `o` the scale and
offset of its group, the number is `s * q + o`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quantload_gguf.blocks.fields import bytewise, fields, half
from quantload_gguf.blocks.kquants import scales_and_minima


@dataclass(frozen=True)
class Affine:
    """How one type is affine.

    Attributes:
        bits: of a code.
        group: elements that share a scale.
        scales: the byte ranges of a block that are not codes.
        split: blocks uint8 `[n, bytes]` -> codes uint8 `[n, elements]`.
        join: writes codes into blocks whose scales are in place.
        affine: blocks, of which only the scales are read -> scale and offset, float32
            `[n, elements // group]` each.
        nibbles: where a block is nothing but scales and nibbles: the first byte of those,
            and how many elements lie in the low ones before as many in the high ones.
    """

    bits: int
    group: int
    scales: tuple[tuple[int, int], ...]
    split: Callable[[Tensor], Tensor]
    join: Callable[[Tensor, Tensor], None]
    affine: Callable[[Tensor], tuple[Tensor, Tensor]]
    nibbles: tuple[int, int] | None = None


def _nibbles(codes: Tensor) -> Tensor:
    """`[n, 2, k]` of small codes -> `[n, k]`, the first in the low nibbles."""
    return codes[:, 0] | (codes[:, 1] << 4)


def _gather(codes: Tensor, width: int) -> Tensor:
    """The inverse of `fields`: `[..., count, k]` -> `[..., k]`."""
    found = codes[..., 0, :]
    for i in range(1, codes.shape[-2]):
        found = found | (codes[..., i, :] << (width * i))
    return found


def _gather_bytewise(codes: Tensor, width: int) -> Tensor:
    """The inverse of `bytewise`."""
    return _gather(codes.unflatten(-1, (-1, 8 // width)).transpose(-1, -2), width)  # type: ignore[no-untyped-call]  # torch does not annotate it


# -- 32 elements ------------------------------------------------------------------------


def _four(start: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], None]]:
    def split(blocks: Tensor) -> Tensor:
        return fields(blocks[:, start:], 4, 2).flatten(1)

    def join(blocks: Tensor, codes: Tensor) -> None:
        blocks[:, start:] = _nibbles(codes.view(-1, 2, 16))

    return split, join


def _five(start: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], None]]:
    def split(blocks: Tensor) -> Tensor:
        codes = fields(blocks[:, start + 4 :], 4, 2).flatten(1)
        return codes | (bytewise(blocks[:, start : start + 4], 1, 8) << 4)

    def join(blocks: Tensor, codes: Tensor) -> None:
        blocks[:, start : start + 4] = _gather_bytewise(codes >> 4, 1)
        blocks[:, start + 4 :] = _nibbles((codes & 15).view(-1, 2, 16))

    return split, join


def _eight(blocks: Tensor) -> Tensor:
    return blocks[:, 2:] ^ 128


def _join_eight(blocks: Tensor, codes: Tensor) -> None:
    blocks[:, 2:] = codes ^ 128


def _centred(middle: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def affine(blocks: Tensor) -> tuple[Tensor, Tensor]:
        scale = half(blocks, 0)
        return scale, scale * -middle

    return affine


def _with_minimum(blocks: Tensor) -> tuple[Tensor, Tensor]:
    return half(blocks, 0), half(blocks, 2)


# -- 256 elements -----------------------------------------------------------------------


def _q2(blocks: Tensor) -> Tensor:
    return fields(blocks[:, 16:80].view(-1, 2, 32), 2, 4).flatten(1)


def _join_q2(blocks: Tensor, codes: Tensor) -> None:
    blocks[:, 16:80] = _gather(codes.view(-1, 2, 4, 32), 2).flatten(1)


def _affine_q2(blocks: Tensor) -> tuple[Tensor, Tensor]:
    packed = blocks[:, :16]
    return half(blocks, 80) * (packed & 15), half(blocks, 82) * (packed >> 4) * -1


def _q3(blocks: Tensor) -> Tensor:
    low = fields(blocks[:, 32:96].view(-1, 2, 32), 2, 4).flatten(1)
    return low | (fields(blocks[:, :32], 1, 8).flatten(1) << 2)


def _join_q3(blocks: Tensor, codes: Tensor) -> None:
    blocks[:, 32:96] = _gather((codes & 3).view(-1, 2, 4, 32), 2).flatten(1)
    blocks[:, :32] = _gather((codes >> 2).view(-1, 8, 32), 1)


def _affine_q3(blocks: Tensor) -> tuple[Tensor, Tensor]:
    packed = blocks[:, 96:108]
    low = fields(packed[:, :8], 4, 2).flatten(1)
    high = fields(packed[:, 8:], 2, 4).flatten(1)
    scale = half(blocks, 108) * (low | (high << 4)).to(torch.float32).sub_(32)
    return scale, scale * -4


def _q4(blocks: Tensor) -> Tensor:
    return fields(blocks[:, 16:].view(-1, 4, 32), 4, 2).flatten(1)


def _join_q4(blocks: Tensor, codes: Tensor) -> None:
    blocks[:, 16:] = _gather(codes.view(-1, 4, 2, 32), 4).flatten(1)


def _q5(blocks: Tensor) -> Tensor:
    low = fields(blocks[:, 48:].view(-1, 4, 32), 4, 2).flatten(1)
    return low | (fields(blocks[:, 16:48], 1, 8).flatten(1) << 4)


def _join_q5(blocks: Tensor, codes: Tensor) -> None:
    blocks[:, 48:] = _gather((codes & 15).view(-1, 4, 2, 32), 4).flatten(1)
    blocks[:, 16:48] = _gather((codes >> 4).view(-1, 8, 32), 1)


def _affine_q4(blocks: Tensor) -> tuple[Tensor, Tensor]:
    scales, minima = scales_and_minima(blocks[:, 4:16])
    return half(blocks, 0) * scales, half(blocks, 2) * minima * -1


def _q6(blocks: Tensor) -> Tensor:
    low = fields(blocks[:, :128].view(-1, 2, 64), 4, 2).flatten(1)
    return low | (fields(blocks[:, 128:192].view(-1, 2, 32), 2, 4).flatten(1) << 4)


def _join_q6(blocks: Tensor, codes: Tensor) -> None:
    blocks[:, :128] = _gather((codes & 15).view(-1, 2, 2, 64), 4).flatten(1)
    blocks[:, 128:192] = _gather((codes >> 4).view(-1, 2, 4, 32), 2).flatten(1)


def _affine_q6(blocks: Tensor) -> tuple[Tensor, Tensor]:
    scale = half(blocks, 208) * blocks[:, 192:208].view(torch.int8)
    return scale, scale * -32


AFFINE: Mapping[str, Affine] = {
    "Q4_0": Affine(4, 32, ((0, 2),), *_four(2), _centred(8), (2, 16)),
    "Q4_1": Affine(4, 32, ((0, 4),), *_four(4), _with_minimum, (4, 16)),
    "Q5_0": Affine(5, 32, ((0, 2),), *_five(2), _centred(16)),
    "Q5_1": Affine(5, 32, ((0, 4),), *_five(4), _with_minimum),
    "Q8_0": Affine(8, 32, ((0, 2),), _eight, _join_eight, _centred(128)),
    "Q2_K": Affine(2, 16, ((0, 16), (80, 84)), _q2, _join_q2, _affine_q2),
    "Q3_K": Affine(3, 16, ((96, 110),), _q3, _join_q3, _affine_q3),
    "Q4_K": Affine(4, 32, ((0, 16),), _q4, _join_q4, _affine_q4, (16, 32)),
    "Q5_K": Affine(5, 32, ((0, 16),), _q5, _join_q5, _affine_q4),
    "Q6_K": Affine(6, 16, ((192, 210),), _q6, _join_q6, _affine_q6),
}
"""Type -> how it is affine."""
