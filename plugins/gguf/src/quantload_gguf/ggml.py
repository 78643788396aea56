"""The tensor types of ggml as data: numbers, names, and how large a block is.

Source: `ggml_type` in ggml.h and the block structures in ggml-common.h; the same
numbers are in `gguf.constants.GGML_QUANT_SIZES` (gguf 0.19).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from quantload.errors import CheckpointError


@dataclass(frozen=True)
class GgmlType:
    """One tensor type.

    Attributes:
        name: as ggml spells it ("Q4_K").
        number: the `ggml_type` in files.
        elements: elements per block.
        nbytes: bytes per block.
        wide: the multi-byte fields of a block, `(offset, count, width in bytes)`,
            which a big-endian file stores swapped; None where no writer of
            big-endian files defines them.
        packed: its elements share a scale; False for plain numbers.
        decodable: it holds weights that `dequantize` can decode.
    """

    name: str
    number: int
    elements: int
    nbytes: int
    wide: tuple[tuple[int, int, int], ...] | None = ()
    packed: bool = True
    decodable: bool = True

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` elements.

        Raises:
            CheckpointError: a row does not fill its blocks.
        """
        if columns % self.elements:
            raise CheckpointError(
                f"a row of {columns} elements does not fill the blocks of {self.elements} that "
                f"{self.name} has"
            )
        return columns // self.elements * self.nbytes


def _plain(name: str, number: int, width: int, *, decodable: bool = True) -> GgmlType:
    wide = ((0, 1, width),) if width > 1 else ()
    return GgmlType(name, number, 1, width, wide, packed=False, decodable=decodable)


_HALF = ((0, 1, 2),)
_TWO_HALVES = ((0, 2, 2),)

TYPES: tuple[GgmlType, ...] = (
    _plain("F32", 0, 4),
    _plain("F16", 1, 2),
    GgmlType("Q4_0", 2, 32, 18, _HALF),
    GgmlType("Q4_1", 3, 32, 20, _TWO_HALVES),
    GgmlType("Q5_0", 6, 32, 22, _HALF),
    GgmlType("Q5_1", 7, 32, 24, _TWO_HALVES),
    GgmlType("Q8_0", 8, 32, 34, _HALF),
    GgmlType("Q8_1", 9, 32, 40, None, decodable=False),
    GgmlType("Q2_K", 10, 256, 84, ((80, 2, 2),)),
    GgmlType("Q3_K", 11, 256, 110, ((108, 1, 2),)),
    GgmlType("Q4_K", 12, 256, 144, _TWO_HALVES),
    GgmlType("Q5_K", 13, 256, 176, _TWO_HALVES),
    GgmlType("Q6_K", 14, 256, 210, ((208, 1, 2),)),
    GgmlType("Q8_K", 15, 256, 292, None, decodable=False),
    GgmlType("IQ2_XXS", 16, 256, 66, None),
    GgmlType("IQ2_XS", 17, 256, 74, None),
    GgmlType("IQ3_XXS", 18, 256, 98, None),
    GgmlType("IQ1_S", 19, 256, 50, None),
    GgmlType("IQ4_NL", 20, 32, 18, _HALF),
    GgmlType("IQ3_S", 21, 256, 110, None),
    GgmlType("IQ2_S", 22, 256, 82, None),
    GgmlType("IQ4_XS", 23, 256, 136, None),
    _plain("I8", 24, 1, decodable=False),
    _plain("I16", 25, 2, decodable=False),
    _plain("I32", 26, 4, decodable=False),
    _plain("I64", 27, 8, decodable=False),
    _plain("F64", 28, 8, decodable=False),
    GgmlType("IQ1_M", 29, 256, 56, None),
    _plain("BF16", 30, 2),
    GgmlType("TQ1_0", 34, 256, 54, ((52, 1, 2),)),
    GgmlType("TQ2_0", 35, 256, 66, ((64, 1, 2),)),
    GgmlType("MXFP4", 39, 32, 17),
    GgmlType("NVFP4", 40, 64, 36),
    GgmlType("Q1_0", 41, 128, 18, _HALF, decodable=False),
)
"""Every type a file may hold."""

RETIRED = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
"""Numbers that ggml no longer reads."""

_BY_NUMBER = {t.number: t for t in TYPES}
_BY_NAME = {t.name: t for t in TYPES}


def ggml_type(which: str | int | GgmlType) -> GgmlType:
    """The type with a name ("Q4_K", any case) or number (12, or an `IntEnum` of it).

    Raises:
        CheckpointError: there is no such type, or ggml retired it.
    """
    if isinstance(which, GgmlType):
        return which
    if isinstance(which, str):
        found = _BY_NAME.get(which.upper())
        if found is not None:
            return found
        import difflib

        close = difflib.get_close_matches(which.upper(), _BY_NAME, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(_BY_NAME)}"
        raise CheckpointError(f"no ggml type is called {which!r}{hint}")
    if isinstance(which, bool) or not hasattr(which, "__index__"):
        raise CheckpointError(f"expected a ggml type by name or number, found {which!r}")
    number = operator.index(which)
    found = _BY_NUMBER.get(number)
    if found is not None:
        return found
    if number in RETIRED:
        raise CheckpointError(
            f"ggml type {number} ({RETIRED[number]}) was retired and no reader has it any "
            f"more; quantize the model again"
        )
    raise CheckpointError(
        f"ggml type {number} is unknown; a newer quantload-gguf may know it: "
        f"pip install -U quantload-gguf"
    )
