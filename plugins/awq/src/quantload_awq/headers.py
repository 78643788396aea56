"""What the tensors of one AWQ layer show: which layout they are in, and its sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from quantload.plugin import CheckpointError
from quantload.weights.affine.checks import FLOATS, check_dtype, check_rank, check_shape, require

if TYPE_CHECKING:
    from quantload.plugin import TensorHeader
    from quantload_awq.config import AwqConfig

LEAVES = ("qweight", "qzeros", "scales", "scaled_zeros")
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_PER_WORD = 8
_WORD_BITS = 32


@dataclasses.dataclass(frozen=True)
class Found:
    """What headers say of a layer.

    Attributes:
        layout: "gemm", "gemv", "gemv_fast", "llm-awq" or "marlin".
        rows: `out_features`.
        columns: `in_features`.
        groups: groups of a row.
        zeros: name of the tensor of zero-points or offsets; None where there is none.
    """

    layout: str
    rows: int
    columns: int
    groups: int
    zeros: str | None

    @property
    def group_size(self) -> int:
        """Columns of a group."""
        return self.columns // self.groups

    @property
    def is_fast(self) -> bool:
        """Whether it has float offsets."""
        return self.layout in ("gemv_fast", "llm-awq")


def read_headers(where: str, headers: Mapping[str, TensorHeader], config: AwqConfig) -> Found:
    """Find the layout of a layer and check its headers against each other.

    Args:
        where: the module.
        headers: name without the module prefix -> header.
        config: the settings.

    Raises:
        CheckpointError: naming the tensor, what was expected and what was found.
    """
    require(where, headers, ("qweight", "scales"), "AWQ")
    found = {leaf: headers[leaf] for leaf in LEAVES if leaf in headers}
    check_rank(found, where)
    check_dtype(f"{where}.scales", found["scales"], FLOATS)
    check_dtype(f"{where}.qweight", found["qweight"], ("I32", "I16"))
    if found["qweight"].dtype == "I16":
        return _fast(where, found, config)
    if "qzeros" in found:
        check_dtype(f"{where}.qzeros", found["qzeros"], ("I32",))
    heights = {header.shape[0] for header in found.values()}
    if len(found) == 3 and len(heights) == 1 and "g_idx" not in headers:
        return _gemv(where, found, config)
    _refuse_gptq(where, headers)
    if "qzeros" not in found and found["qweight"].shape[1] == 2 * found["scales"].shape[1]:
        return _marlin(where, found, config)
    return _gemm(where, found, config)


def _refuse_gptq(where: str, headers: Mapping[str, TensorHeader]) -> None:
    columns = headers["scales"].shape[1]
    same = headers["qweight"].shape[1] == columns and "qzeros" in headers
    if "g_idx" in headers or (same and headers["qzeros"].shape[1] != columns):
        raise CheckpointError(
            f"{where}.qweight: shape {list(headers['qweight'].shape)} with scales "
            f"{list(headers['scales'].shape)}{' and a g_idx' if 'g_idx' in headers else ''}: these "
            f"are the tensors of GPTQ, so quant_method should be 'gptq'"
        )


def _gemm(where: str, found: Mapping[str, TensorHeader], config: AwqConfig) -> Found:
    columns, across = found["qweight"].shape
    groups, rows = found["scales"].shape
    expected = -(-rows * config.bits // _WORD_BITS)
    if across != expected:
        fitting = [b for b in range(2, 9) if across == -(-rows * b // _WORD_BITS)]
        hint = (
            f"; the shapes are those of {fitting[0]} bits: mend `bits` in the quantization config"
            if fitting
            else "; the file is damaged or its quantization config belongs to another one"
        )
        raise CheckpointError(
            f"{where}.qweight: shape {[columns, across]}, expected {[columns, expected]} for "
            f"{config.bits} bits and {rows} outputs{hint}"
        )
    if "qzeros" in found:
        check_shape(
            f"{where}.qzeros", found["qzeros"].shape, (groups, across), "like scales and qweight"
        )
    elif config.zero_point:
        raise CheckpointError(
            f"{where}.qzeros missing; an AWQ layer has zero-points unless its config says "
            f"zero_point=false"
        )
    if config.bits == 4 and rows % _PER_WORD:
        raise CheckpointError(
            f"{where}.scales: {rows} outputs, expected a multiple of {_PER_WORD}: 4-bit codes are "
            f"interleaved in whole words"
        )
    if columns % groups:
        raise CheckpointError(
            f"{where}.scales: {groups} groups do not divide the {columns} input columns of "
            f"{where}.qweight; the file is damaged"
        )
    return Found("gemm", rows, columns, groups, "qzeros" if "qzeros" in found else None)


def _gemv(where: str, found: Mapping[str, TensorHeader], config: AwqConfig) -> Found:
    _check_bits(where, "gemv", config)
    rows, words = found["qweight"].shape
    columns = words * _PER_WORD
    groups = _groups(where, columns, config)
    width = found["qzeros"].shape[1]
    check_shape(
        f"{where}.scales", found["scales"].shape, (rows, width * _PER_WORD), "as wide as qzeros"
    )
    _check_width(f"{where}.qzeros", width, groups, config)
    return Found("gemv", rows, columns, groups, "qzeros")


def _fast(where: str, found: Mapping[str, TensorHeader], config: AwqConfig) -> Found:
    _check_bits(where, "gemv_fast", config)
    zeros = "scaled_zeros" if "scaled_zeros" in found else "qzeros"
    require(where, found, ("qweight", zeros, "scales"), "AWQ gemv_fast")
    quads, columns = found["qweight"].shape
    check_dtype(f"{where}.{zeros}", found[zeros], (found["scales"].dtype,))
    check_shape(f"{where}.{zeros}", found[zeros].shape, found["scales"].shape, "like scales")
    padded, rows = found["scales"].shape
    check_shape(f"{where}.scales", (padded, rows), (padded, 4 * quads), "4 rows of qweight in one")
    if columns % 64 or padded % _PER_WORD:
        raise CheckpointError(
            f"{where}.qweight: {columns} columns and {padded} rows of scales; the gemv_fast layout "
            f"has multiples of 64 and of {_PER_WORD}"
        )
    groups = _groups(where, columns, config)
    _check_width(f"{where}.scales", padded // _PER_WORD, groups, config)
    layout = "llm-awq" if zeros == "scaled_zeros" else "gemv_fast"
    return Found(layout, rows, columns, groups, zeros)


def _marlin(where: str, found: Mapping[str, TensorHeader], config: AwqConfig) -> Found:
    _check_bits(where, "marlin", config)
    groups, rows = found["scales"].shape
    columns = found["qweight"].shape[0] * 16
    if rows % 64 or columns % groups:
        raise CheckpointError(
            f"{where}.scales: shape {[groups, rows]} does not fit {columns} input columns: rows "
            f"come in multiples of 64, and groups are equal"
        )
    return Found("marlin", rows, columns, groups, None)


def _check_bits(where: str, layout: str, config: AwqConfig) -> None:
    if config.bits != 4:
        raise CheckpointError(
            f"{where}.qweight: layers of the {layout} layout have 4 bits, the quantization config "
            f"says {config.bits}; mend `bits` there"
        )


def _groups(where: str, columns: int, config: AwqConfig) -> int:
    """The number of groups where scales are padded and do not tell it."""
    size = columns if config.group_size == -1 else config.group_size
    if columns % size:
        raise CheckpointError(
            f"{where}.qweight: {columns} input columns, not a multiple of group_size={size}; mend "
            f"group_size in the quantization config"
        )
    return columns // size


def padded_words(groups: int, group_size: int) -> int:
    """Words of zero-points of a row: those of its groups, rounded up as kernels want them."""
    step = max(1, 128 // group_size) if group_size in (16, 32, 64) else 1
    words = -(-groups // _PER_WORD)
    return -(-words // step) * step


def _check_width(name: str, width: int, groups: int, config: AwqConfig) -> None:
    expected = padded_words(groups, config.group_size)
    if width != expected and not (config.group_size == -1 and width >= 1):
        raise CheckpointError(
            f"{name}: room for {width * _PER_WORD} groups, expected {expected * _PER_WORD} for "
            f"{groups} groups of {config.group_size}; its group_size is another"
        )
