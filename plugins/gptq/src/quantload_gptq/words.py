"""The integers of GPTQ checkpoints: words of codes and of zero-points, in and out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.weights.affine.fields import recast
from quantload.weights.affine.planes import pack_planes, row_bytes, unpack_planes
from quantload.weights.affine.streams import (
    pack_stream,
    planar_to_rows,
    rows_to_planar,
    unpack_stream,
    words_for,
)

_WHOLE = (2, 4, 8)
"""Widths of which a word holds a whole number."""


def is_planar(layout: str, bits: int) -> bool:
    """Whether words hold planes of bits; 2, 4 and 8 bits are one plane, as a stream is."""
    return layout == "gptq_p" and bits not in _WHOLE


def rows_from_words(qweight: Tensor, bits: int, columns: int, planar: bool) -> Tensor:
    """Canonical rows uint8 `[out_features, row_bytes]` of `qweight`.

    Args:
        qweight: words `[n, out_features]`, without anything after the last code.
        bits: bits of a code.
        columns: `in_features`.
        planar: see `is_planar`.
    """
    if planar:
        return planar_to_rows(qweight, bits)
    if bits not in _WHOLE:
        return pack_planes(unpack_stream(qweight, bits, columns).T, bits)
    rows = recast(qweight.T, torch.uint8).view(qweight.shape[1], -1)
    missing = row_bytes(columns, bits) - rows.shape[1]
    return F.pad(rows, (0, missing)) if missing else rows


def words_from_rows(
    rows: Tensor, bits: int, columns: int, planar: bool, word: torch.dtype
) -> Tensor:
    """The inverse of `rows_from_words`."""
    if planar:
        return rows_to_planar(rows, bits)
    if bits not in _WHOLE:
        return pack_stream(unpack_planes(rows, bits, columns).T, bits, word)
    size = words_for(columns, bits, word) * word.itemsize
    words = recast(rows[:, :size], word).view(rows.shape[0], -1)
    return words.T.contiguous()


def zeros_from_words(qzeros: Tensor, layout: str, bits: int, rows: int) -> Tensor:
    """True zero-points uint8 `[out_features, groups]` of `qzeros` `[groups, n]`.

    Version 1 stores them less one. Its writers subtracted from whole words, so for 2, 4
    and 8 bits one is added to whole words, too: a borrow out of a zero-point of 0 is
    taken back. Widths whose fields cross words were counted field by field.
    """
    if is_planar(layout, bits):
        return unpack_planes(planar_to_rows(qzeros.T.contiguous(), bits), bits, rows).T
    words = qzeros.T
    if layout == "gptq" and bits in _WHOLE:
        words = words + _ones(bits, words.dtype)
    fields = unpack_stream(words, bits, rows)
    if layout == "gptq" and bits not in _WHOLE:
        fields = (fields + 1) & ((1 << bits) - 1)
    return fields


def words_from_zeros(zeros: Tensor, layout: str, bits: int, word: torch.dtype) -> Tensor:
    """The inverse of `zeros_from_words`.

    Args:
        zeros: integers `[out_features, groups]`, below `2**bits`.
        layout: "gptq", "gptq_v2" or "gptq_p".
        bits: bits of a code.
        word: dtype of the words.
    """
    fields = zeros.to(torch.uint8)
    if is_planar(layout, bits):
        return rows_to_planar(pack_planes(fields.T, bits), bits).T.contiguous()
    if layout == "gptq" and bits not in _WHOLE:
        fields = (fields - 1) & ((1 << bits) - 1)
    words = pack_stream(fields, bits, word)
    if layout == "gptq" and bits in _WHOLE:
        words -= _ones(bits, word)
    return words.T.contiguous()


def constant_words(value: int, layout: str, bits: int, word: torch.dtype, n: int) -> Tensor:
    """`n` words of zero-points that are all `value`, in a layout."""
    count = -(-n * word.itemsize * 8 // bits // 32) * 32 + 32
    zeros = torch.full((count, 1), value, dtype=torch.uint8, device="cpu")
    return words_from_zeros(zeros, layout, bits, word)[0, :n]


def _ones(bits: int, word: torch.dtype) -> int:
    """A word with a 1 in every field, as a signed number."""
    return sum(1 << shift for shift in range(0, word.itemsize * 8, bits))
