"""What the tensors of one GPTQ layer must look like, checked before a byte is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from quantload.plugin import CheckpointError
from quantload.weights.affine.checks import (
    FLOATS,
    check_dtype,
    check_rank,
    check_shape,
    require,
)

if TYPE_CHECKING:
    from quantload.plugin import TensorHeader
    from quantload_gptq.overrides import Parameters

LEAVES = ("qweight", "qzeros", "scales", "g_idx")
MARLIN_LEAVES = ("B", "s")
DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "I32": torch.int32,
    "I64": torch.int64,
}
WORD_BITS = {"I8": 8, "I16": 16, "I32": 32}
_MARLIN_TILE = (16, 64)


class Shape(NamedTuple):
    """What headers say of a layer.

    Attributes:
        rows: `out_features`.
        columns: `in_features`; None where the padding of a word leaves it open.
        groups: rows of the scales.
    """

    rows: int
    columns: int | None
    groups: int


def is_marlin(headers: Mapping[str, TensorHeader]) -> bool:
    """Whether these are the tensors of a layer packed for Marlin."""
    return "B" in headers and "qweight" not in headers


def read_headers(
    where: str,
    headers: Mapping[str, TensorHeader],
    said: Parameters,
    columns: int | None = None,
) -> Shape:
    """Check the headers of a layer against each other and against its parameters.

    Args:
        where: the module.
        headers: name without the module prefix -> header.
        said: the parameters of the module.
        columns: `in_features`, where the model has told it.

    Raises:
        CheckpointError: naming the tensor, what was expected and what was found.
    """
    if is_marlin(headers):
        return _read_marlin(where, headers, said)
    require(where, headers, LEAVES[:3], "GPTQ")
    found = {leaf: headers[leaf] for leaf in LEAVES if leaf in headers}
    matrices = {leaf: header for leaf, header in found.items() if leaf != "g_idx"}
    check_rank(matrices, where)
    for leaf in ("qweight", "qzeros"):
        check_dtype(f"{where}.{leaf}", found[leaf], WORD_BITS)
    check_dtype(f"{where}.qzeros", found["qzeros"], (found["qweight"].dtype,))
    check_dtype(f"{where}.scales", found["scales"], FLOATS)
    groups, rows = found["scales"].shape
    if "g_idx" in found:
        check_dtype(f"{where}.g_idx", found["g_idx"], ("I32", "I64"))
        check_rank({"g_idx": found["g_idx"]}, where, rank=1)
        length = found["g_idx"].shape[0]
        if columns is not None:
            check_shape(f"{where}.g_idx", (length,), (columns,), "one per input of the module")
        columns = length
    _check_words(where, found, said, rows, columns, groups)
    return Shape(rows, columns, groups)


def _check_words(
    where: str,
    found: Mapping[str, TensorHeader],
    said: Parameters,
    rows: int,
    columns: int | None,
    groups: int,
) -> None:
    word = WORD_BITS[found["qweight"].dtype]
    words, width = found["qweight"].shape
    if width != rows:
        hint = ""
        if width == found["qzeros"].shape[1]:
            hint = "; these are the shapes of AWQ, so quant_method should be 'awq'"
        raise CheckpointError(
            f"{where}.qweight: shape {[words, width]}, expected {rows} columns, as many as "
            f"{where}.scales has{hint}"
        )
    across = -(-rows * said.bits // word)
    down = words if columns is None else -(-columns * said.bits // word)
    if found["qzeros"].shape != (groups, across) or words != down:
        wrong = "qzeros" if words == down else "qweight"
        expected = [groups, across] if wrong == "qzeros" else [down, rows]
        raise CheckpointError(
            f"{where}.{wrong}: shape {list(found[wrong].shape)}, expected {expected} for "
            f"{said.bits} bits{_guess(found, said.bits, rows, columns, word)}"
        )
    if said.format == "gptq_p" and said.bits not in (2, 4, 8):
        _check_planar(where, words, rows, said.bits, word)


def _check_planar(where: str, words: int, rows: int, bits: int, word: int) -> None:
    if word != 32 or rows % 32 or words % bits:
        raise CheckpointError(
            f"{where}.qweight: shape {[words, rows]} in words of {word} bits, but planar codes "
            f"of {bits} bits come in blocks of 32 rows and columns, in words of 32 bits"
        )


def _guess(
    found: Mapping[str, TensorHeader], bits: int, rows: int, columns: int | None, word: int
) -> str:
    """What width the shapes would be right for, as the end of a message."""
    fitting = [
        other
        for other in range(2, 9)
        if found["qzeros"].shape[1] == -(-rows * other // word)
        and (columns is None or found["qweight"].shape[0] == -(-columns * other // word))
    ]
    if fitting and bits not in fitting:
        return (
            f"; the shapes are those of {fitting[0]} bits: mend `bits` (or `dynamic`) in the "
            f"quantization config"
        )
    return "; the file is damaged or its quantization config belongs to another one"


def _read_marlin(where: str, headers: Mapping[str, TensorHeader], said: Parameters) -> Shape:
    require(where, headers, MARLIN_LEAVES, "Marlin")
    check_rank({leaf: headers[leaf] for leaf in MARLIN_LEAVES}, where)
    check_dtype(f"{where}.B", headers["B"], ("I32",))
    check_dtype(f"{where}.s", headers["s"], FLOATS)
    groups, rows = headers["s"].shape
    down, across = headers["B"].shape
    columns = down * _MARLIN_TILE[0]
    check_shape(f"{where}.B", (down, across), (down, 2 * rows), f"{where}.s has {rows} columns")
    if said.bits != 4:
        raise CheckpointError(
            f"{where}.B: Marlin layers have 4 bits, the quantization config says {said.bits}"
        )
    if rows % _MARLIN_TILE[1] or columns % groups:
        raise CheckpointError(
            f"{where}.s: shape {[groups, rows]} does not fit {columns} input columns: rows come in "
            f"multiples of {_MARLIN_TILE[1]}, and groups are equal"
        )
    return Shape(rows, columns, groups)
