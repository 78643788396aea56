"""The names of the layouts of affine weights, without anything of LLVM."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantload.weights.affine.planes import PLANES, padded

PREFIX = "affine"

_SUMS = 16
"""Columns that share a minimum are a multiple of it."""

_DTYPES = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.uint8: "uint8",
    torch.int16: "int16",
}


_STARTS = {
    bits: tuple(sum(widths[:number]) for number in range(1, len(widths)))
    for bits, widths in PLANES.items()
}
"""Bits of a code -> the bits before each of its planes but the first."""


@dataclass(frozen=True)
class Kind:
    """What the code of a layout depends on.

    Attributes:
        bits: of a code, 2 to 8.
        group: columns of a group; 0 where a row is one group.
        scales: dtype of the scales, without "torch.".
        shifts: likewise of the zero-points (integers) or offsets (floats); "" where every
            zero-point is `2**(bits - 1)`.
    """

    bits: int
    group: int
    scales: str
    shifts: str


def name_of(bits: int, group: int, scales: torch.dtype, shifts: torch.dtype | None) -> str:
    """The name of a layout, by which `layouts.find` finds it; see `Kind`."""
    tail = f"-{_DTYPES[shifts]}" if shifts is not None else ""
    return f"{PREFIX}{bits}-{group}-{_DTYPES[scales]}{tail}"


def kind_of(name: str) -> Kind:
    """The opposite of `name_of`."""
    bits, group, scales, *shifts = name.removeprefix(PREFIX).split("-")
    return Kind(int(bits), int(group), scales, shifts[0] if shifts else "")


def per_byte(bits: int) -> int:
    """Codes in a byte of the widest plane."""
    return 8 // PLANES[bits][0]


def fits(bits: int, group: int, shifted: bool) -> bool:
    """Whether the four codes of every lane share their scale.

    Args:
        bits: of a code.
        group: see `Kind`.
        shifted: whether there are zero-points or offsets.
    """
    return group % max(4 * per_byte(bits), _SUMS if shifted else 0) == 0


def sizes_of(bits: int, columns: int, groups: int) -> list[int]:
    """The numbers after the addresses: bytes of a row, groups, starts of the further planes."""
    width = padded(columns) // 8
    return [width * bits, groups, *[width * start for start in _STARTS[bits]]]
