"""Codes in words. The source is `hqq.core.bitpack` of hqq 0.2.8.

A matrix of codes is cut into equal parts from top to bottom. A word holds the codes that
stand at the same place of every part, the first part in its most significant bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Packing(NamedTuple):
    """How codes lie in words.

    Attributes:
        bits: of a code.
        per_word: codes in a word.
        dtype: of a word.
    """

    bits: int
    per_word: int
    dtype: torch.dtype

    def words(self, rows: int) -> int:
        """Rows of words for so many rows of codes."""
        return -(-rows // self.per_word)


PACKINGS = {
    "8bit_u8": Packing(8, 1, torch.uint8),
    "4bit_u8": Packing(4, 2, torch.uint8),
    "3bit_32": Packing(3, 10, torch.int32),
    "2bit_u8": Packing(2, 4, torch.uint8),
    "1bit_u8": Packing(1, 8, torch.uint8),
}
NAME_FOR = {
    8: "8bit_u8",
    6: "8bit_u8",
    5: "8bit_u8",
    4: "4bit_u8",
    3: "3bit_32",
    2: "2bit_u8",
    1.58: "2bit_u8",
    1: "1bit_u8",
}
"""`nbits` -> name of the packing."""


def fits(rows: int, packing: Packing) -> bool:
    """Whether so many rows can be packed: only the packing of 3 bits fills up with zeros."""
    return packing.bits == 3 or rows % packing.per_word == 0


def pack(codes: Tensor, packing: Packing) -> Tensor:
    """Codes uint8 `[rows, columns]` as words `[words(rows), columns]`."""
    rows, columns = codes.shape
    words = packing.words(rows)
    missing = words * packing.per_word - rows
    padded = F.pad(codes, (0, 0, 0, missing)) if missing else codes
    parts = padded.view(packing.per_word, words, columns).to(packing.dtype)
    packed = torch.zeros_like(parts[0])
    for part in parts:
        packed = (packed << packing.bits if packing.bits < 8 else packed) | part
    return packed


def unpack(words: Tensor, packing: Packing, rows: int) -> Tensor:
    """The inverse of `pack`: uint8 `[rows, columns]`."""
    mask = (1 << packing.bits) - 1
    shifts = range(packing.bits * (packing.per_word - 1), -1, -packing.bits)
    parts = [((words >> shift) & mask).to(torch.uint8) for shift in shifts]
    return torch.cat(parts)[:rows]
