"""Words of checkpoints: little-endian bit streams and planar blocks, along dimension 0.

GPTQ, AWQ and their kin put codes into words so that code `k` takes the bits
`[k * bits, (k + 1) * bits)` of a stream, least significant first, over as many words
as it needs; for 3, 5, 6 and 7 bits codes cross from one word into the next. On
little-endian machines the words may be read as bytes, so one rule serves every width
of word. GPTQModel's planar layout stores, for every 32 codes, first all words of the
low plane and then those of the next (see `planes`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.weights.affine.fields import recast
from quantload.weights.affine.planes import BLOCK, PLANES


def words_for(count: int, bits: int, word: torch.dtype) -> int:
    """Words that hold `count` codes."""
    return -(-count * bits // (word.itemsize * 8))


def to_bytes(words: Tensor) -> Tensor:
    """Words `[n, m]` of any integer dtype as bytes `[n * itemsize, m]`, low byte first."""
    n, m = words.shape
    split = recast(words, torch.uint8).view(n, m, words.dtype.itemsize)
    return split.transpose(1, 2).reshape(-1, m)


def to_words(data: Tensor, word: torch.dtype) -> Tensor:
    """The inverse of `to_bytes`."""
    size = word.itemsize
    n, m = data.shape[0] // size, data.shape[1]
    return recast(data.view(n, size, m).transpose(1, 2), word).view(n, m)


def unpack_stream(words: Tensor, bits: int, count: int) -> Tensor:
    """Codes of a bit stream.

    Args:
        words: int8, int16 or int32 `[n, m]`, one stream per column.
        bits: bits of a code, 2 to 8.
        count: how many codes to read.

    Returns:
        uint8 `[count, m]`.
    """
    data = to_bytes(words)
    runs = -(-count // 8)
    missing = runs * bits - data.shape[0]
    if missing > 0:
        data = F.pad(data, (0, 0, 0, missing))
    data = data[: runs * bits].view(runs, bits, -1)
    codes = data.new_empty((runs, 8, data.shape[2]))
    mask = (1 << bits) - 1
    for k in range(8):
        byte, shift = divmod(k * bits, 8)
        value = data[:, byte] >> shift
        if shift + bits > 8:
            value |= data[:, byte + 1] << (8 - shift)
        codes[:, k] = value & mask
    return codes.view(runs * 8, -1)[:count]


def pack_stream(codes: Tensor, bits: int, word: torch.dtype = torch.int32) -> Tensor:
    """The inverse of `unpack_stream`; bits after the last code are zero.

    Args:
        codes: uint8 `[count, m]`, each below `2**bits`.
        bits: bits of a code, 2 to 8.
        word: dtype of the words.

    Returns:
        `[words_for(count, bits, word), m]`.
    """
    count = codes.shape[0]
    runs = -(-count // 8)
    if runs * 8 != count:
        codes = F.pad(codes, (0, 0, 0, runs * 8 - count))
    codes = codes.reshape(runs, 8, -1)
    data = codes.new_zeros((runs, bits, codes.shape[2]))
    for k in range(8):
        byte, shift = divmod(k * bits, 8)
        data[:, byte] |= codes[:, k] << shift
        if shift + bits > 8:
            data[:, byte + 1] |= codes[:, k] >> (8 - shift)
    data = data.view(runs * bits, -1)
    size = words_for(count, bits, word) * word.itemsize
    missing = size - data.shape[0]
    data = F.pad(data, (0, 0, 0, missing)) if missing > 0 else data[:size]
    return to_words(data, word)


def planar_to_rows(words: Tensor, bits: int) -> Tensor:
    """Planar words int32 `[blocks * bits, m]` as canonical rows uint8 `[m, row_bytes]`."""
    blocks = words.shape[0] // bits
    split = words.view(blocks, bits, -1)
    parts, start = [], 0
    for width in PLANES[bits]:
        plane = split[:, start : start + width].reshape(blocks * width, -1)
        parts.append(recast(plane.T, torch.uint8).view(plane.shape[1], -1))
        start += width
    return torch.cat(parts, dim=-1)


def rows_to_planar(rows: Tensor, bits: int) -> Tensor:
    """The inverse of `planar_to_rows`."""
    blocks = rows.shape[1] // (BLOCK * bits // 8)
    words = torch.empty((blocks, bits, rows.shape[0]), dtype=torch.int32, device=rows.device)
    byte, start = 0, 0
    for width in PLANES[bits]:
        size = blocks * width * 4
        plane = recast(rows[:, byte : byte + size], torch.int32).view(-1, blocks * width)
        words[:, start : start + width] = plane.T.reshape(blocks, width, -1)
        byte, start = byte + size, start + width
    return words.view(blocks * bits, -1)


def tail_of(words: Tensor, used_bits: int) -> Tensor | None:
    """What the last word of each stream has above the codes; None where it is all zero.

    Args:
        words: `[n, m]`.
        used_bits: bits of a stream that codes take.

    Returns:
        `[m]`, the last words with the bits of codes cleared.
    """
    spare = words.shape[0] * words.dtype.itemsize * 8 - used_bits
    if spare <= 0:
        return None
    tail = words[-1] & _high_mask(words.dtype, spare)
    return tail if bool(tail.any()) else None


def _high_mask(word: torch.dtype, bits: int) -> int:
    """The mask of the `bits` highest bits of a signed word, as a signed number."""
    return -(1 << (word.itemsize * 8 - bits))
