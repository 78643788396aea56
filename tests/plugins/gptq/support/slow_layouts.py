"""Decoders of GPTQ and AWQ layouts, one element at a time, written from their description.

They share nothing with the code under test: plain lists, plain integers.
"""

from __future__ import annotations

from torch import Tensor

PLANES = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)


def unsigned(words: Tensor) -> list[list[int]]:
    bits = words.dtype.itemsize * 8
    return [[int(w) % (1 << bits) for w in row] for row in words.tolist()]


def columns_of(matrix: list[list[int]]) -> list[list[int]]:
    return [list(column) for column in zip(*matrix, strict=True)]


def stream(words: list[int], word_bits: int, bits: int, count: int) -> list[int]:
    """Fields of a little-endian bit stream."""
    number = sum(word << (word_bits * i) for i, word in enumerate(words))
    return [(number >> (bits * k)) % (1 << bits) for k in range(count)]


def planar(words: list[int], bits: int, count: int) -> list[int]:
    """Fields of planar 32-bit words: per 32 codes, the words of one plane after the other."""
    fields = []
    for k in range(count):
        block, inside = divmod(k, 32)
        word, value, offset = block * bits, 0, 0
        for width in PLANES.get(bits, (bits,)):
            per_word = 32 // width
            at, slot = divmod(inside, per_word)
            part = (words[word + at] >> (slot * width)) % (1 << width)
            value |= part << offset
            offset += width
            word += width
        fields.append(value)
    return fields


def gptq_codes(qweight: Tensor, bits: int, count: int, layout: str) -> list[list[int]]:
    """`[out][in]`."""
    word_bits = qweight.dtype.itemsize * 8
    read = planar if layout == "gptq_p" else None
    return [
        read(words, bits, count) if read else stream(words, word_bits, bits, count)
        for words in columns_of(unsigned(qweight))
    ]


def gptq_zeros(qzeros: Tensor, bits: int, rows: int, layout: str) -> list[list[int]]:
    """True zero-points `[out][group]`."""
    word_bits = qzeros.dtype.itemsize * 8
    groups = []
    for words in unsigned(qzeros):
        if layout == "gptq_p":
            groups.append(planar(words, bits, rows))
        elif layout == "gptq_v2":
            groups.append(stream(words, word_bits, bits, rows))
        elif bits == 3:
            groups.append([(f + 1) % 8 for f in stream(words, word_bits, bits, rows)])
        else:
            one = sum(1 << shift for shift in range(0, word_bits, bits))
            added = [(word + one) % (1 << word_bits) for word in words]
            groups.append(stream(added, word_bits, bits, rows))
    return columns_of(groups)


def gemm_fields(words: Tensor, bits: int, rows: int) -> list[list[int]]:
    """`[out][in or group]`; 4-bit fields are interleaved within a word."""
    table = []
    for line in unsigned(words):
        fields = stream(line, 32, bits, len(line) * 32 // bits)
        if bits == 4:
            ordered = [0] * len(fields)
            for position, field in enumerate(fields):
                word, nibble = divmod(position, 8)
                ordered[8 * word + NIBBLES[nibble]] = field
            fields = ordered
        table.append(fields[:rows])
    return columns_of(table)


def gemv_fields(words: Tensor, count: int) -> list[list[int]]:
    """`[out][in or group]`."""
    return [stream(line, 32, 4, count) for line in unsigned(words)]


def fast_codes(words: Tensor) -> list[list[int]]:
    """`[out][in]` of the interleaved layout."""
    swapped = [0, 1, 8, 9, 16, 17, 24, 25]
    order = [base + 2 * step for step in range(4) for base in swapped]
    rows = []
    for line in unsigned(words):
        columns = len(line)
        quad = [[0] * columns for _ in range(4)]
        for value, code in enumerate(stream(line, 16, 4, 4 * columns)):
            run, inside = divmod(value, 256)
            row, place = divmod(inside, 64)
            block, place = divmod(place, 32)
            eight, nibble = divmod(place, 8)
            quad[row][64 * run + 32 * block + order[8 * eight + NIBBLES[nibble]]] = code
        rows.extend(quad)
    return rows
