"""GPTQ tensors to `AffineWeight` and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantload.plugin import CheckpointError, UnsupportedOperationError
from quantload.weights.affine import AffineWeight, Origin, zeros_dtype
from quantload.weights.affine.checks import check_g_idx, check_module, check_scales, require
from quantload.weights.affine.streams import tail_of
from quantload_gptq import marlin
from quantload_gptq.evidence import evident_layout
from quantload_gptq.headers import DTYPES, is_marlin, read_headers
from quantload_gptq.words import (
    is_planar,
    rows_from_words,
    words_from_rows,
    words_from_zeros,
    zeros_from_words,
)

if TYPE_CHECKING:
    from quantload.plugin import ModuleSpec, TensorHeader
    from quantload_gptq.overrides import Parameters


def group_size_of(
    where: str, said: Parameters, columns: int, groups: int, g_idx: Tensor | None
) -> int:
    """Columns of a group: as said, or as the file shows.

    Args:
        where: the module.
        said: its parameters.
        columns: `in_features`.
        groups: rows of its scales.
        g_idx: the group of each column, where the file says it.

    Raises:
        CheckpointError: the groups there are do not fit the columns.
    """
    size = columns if said.group_size == -1 else min(said.group_size, columns)
    shown = columns // groups
    if g_idx is not None and columns % groups == 0 and not g_idx.is_meta:
        trivial = torch.arange(columns, device=g_idx.device) // shown
        return shown if torch.equal(trivial, g_idx.long()) else size
    if g_idx is not None or -(-columns // size) == groups:
        return size
    if columns % groups:
        raise CheckpointError(
            f"{where}.scales: {groups} groups, expected {-(-columns // size)} for {columns} input "
            f"columns in groups of {size}; the file is damaged or its group_size is another"
        )
    return shown


def read(
    spec: ModuleSpec,
    headers: Mapping[str, TensorHeader],
    tensors: Mapping[str, Tensor],
    said: Parameters,
) -> AffineWeight:
    """The weight of one layer.

    Args:
        spec: the module; its shape counts where it has one.
        headers: of `tensors`.
        tensors: name without the module prefix -> tensor.
        said: the module's parameters.

    Raises:
        CheckpointError: a tensor is missing or wrong.
    """
    where = spec.name
    require(where, headers, [leaf for leaf in spec.tensors if leaf != "bias"], "GPTQ")
    known = None if spec.shape is None else spec.shape[1]
    shape = read_headers(where, headers, said, known)
    check_module(spec, (shape.rows, shape.columns or known or 0))
    if is_marlin(headers):
        return marlin.read(spec, tensors, _label(said))
    qweight, qzeros, scales = tensors["qweight"], tensors["qzeros"], tensors["scales"]
    word = qweight.dtype
    columns = shape.columns or known or qweight.shape[0] * word.itemsize * 8 // said.bits
    g_idx = tensors.get("g_idx")
    check_scales(f"{where}.scales", scales)
    if g_idx is not None:
        check_g_idx(f"{where}.g_idx", g_idx, shape.groups)
    layout = evident_layout(where, qzeros, said, shape.rows)
    kept: dict[str, Tensor] = {}
    tail = tail_of(qweight, columns * said.bits)
    if tail is not None:
        kept["tail"] = tail
        qweight = torch.cat([qweight[:-1], (qweight[-1] ^ tail)[None]])
    zeros = zeros_from_words(qzeros, layout, said.bits, shape.rows)
    if not torch.equal(words_from_zeros(zeros, layout, said.bits, word), qzeros):
        kept["qzeros"] = qzeros
    planar = is_planar(layout, said.bits)
    size = group_size_of(where, said, columns, shape.groups, g_idx)
    return AffineWeight(
        (shape.rows, columns),
        spec.dtype or scales.dtype,
        bits=said.bits,
        group_size=size,
        codes=rows_from_words(qweight, said.bits, columns, planar),
        scales=scales.T.contiguous(),
        zeros=zeros.to(zeros_dtype(said.bits)).contiguous(),
        g_idx=g_idx,
        origin=Origin(layout, {**_label(said), "word": word}),
        kept=kept,
    )


def empty(
    spec: ModuleSpec, headers: Mapping[str, TensorHeader], said: Parameters, dtype: torch.dtype
) -> AffineWeight:
    """The weight on the meta device, from headers (none where it will be quantized).

    Raises:
        CheckpointError: the headers do not fit each other, or not the module.
    """
    assert spec.shape is not None
    columns = spec.shape[1]
    if not headers:
        plain = said.format != "marlin"
        return AffineWeight.empty(
            spec.shape,
            dtype,
            bits=said.bits,
            group_size=columns if said.group_size == -1 else min(said.group_size, columns),
            has_zeros=plain,
            has_g_idx=plain,
            symmetric=said.sym,
        )
    shape = read_headers(spec.name, headers, said, columns)
    check_module(spec, (shape.rows, shape.columns or columns))
    index = headers.get("g_idx")
    unread = None if index is None else torch.empty(columns, device="meta")
    size = group_size_of(spec.name, said, columns, shape.groups, unread)
    return AffineWeight.empty(
        spec.shape,
        dtype,
        bits=said.bits,
        group_size=size,
        groups=shape.groups,
        scale_dtype=DTYPES[headers["s" if is_marlin(headers) else "scales"].dtype],
        has_zeros=not is_marlin(headers),
        has_g_idx=index is not None,
        g_idx_dtype=DTYPES[index.dtype] if index is not None else torch.int32,
        symmetric=said.sym,
        act_order=said.desc_act,
    )


def write(name: str, weight: AffineWeight, said: Parameters) -> dict[str, Tensor]:
    """The tensors of one layer: those it was read from, or new ones.

    Raises:
        UnsupportedOperationError: the layout cannot express the weight; it says why.
    """
    origin = weight.origin
    known = origin is not None and _label(said).items() <= origin.facts.items()
    if not known:
        weight = _with_integers(name, weight, said.format)
    layout = origin.format if origin is not None and known else said.format
    if layout == "marlin":
        return marlin.write(name, weight)
    word: torch.dtype = getattr(torch, said.pack_dtype)
    kept: dict[str, Tensor] = {}
    if origin is not None and known:
        word, kept = origin.facts["word"], weight.kept()
    else:
        _check_expressible(name, weight, layout, word)
    columns, bits = weight.shape[1], weight.bits
    qweight = words_from_rows(weight.codes, bits, columns, is_planar(layout, bits), word)
    if "tail" in kept:
        qweight[-1] |= kept["tail"]
    qzeros = kept.get("qzeros")
    if qzeros is None:
        qzeros = words_from_zeros(weight.zero_points(), layout, bits, word)
    tensors = {"qweight": qweight, "qzeros": qzeros, "scales": weight.scales.T.contiguous()}
    if weight.g_idx is not None:
        tensors["g_idx"] = weight.g_idx.detach()
    elif not known:
        tensors["g_idx"] = trivial_g_idx(columns, weight.group_size, weight.device)
    return tensors


def trivial_g_idx(columns: int, group_size: int, device: torch.device) -> Tensor:
    """The groups of columns that are in order, int32 `[columns]`."""
    return (torch.arange(columns, device=device) // group_size).to(torch.int32)


def _label(said: Parameters) -> dict[str, str]:
    """By which a weight knows that it comes from a config like this one."""
    return {"method": "gptq", "label": said.format}


def _with_integers(name: str, weight: AffineWeight, layout: str) -> AffineWeight:
    if weight.offsets is None:
        return weight
    try:
        return weight.with_zero_points()
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(
            f"{name}: cannot be written as {layout}, which stores integer zero-points: {error}"
        ) from error


def _check_expressible(name: str, weight: AffineWeight, layout: str, word: torch.dtype) -> None:
    zeros = weight.zero_points()
    low, high = int(zeros.min()), int(zeros.max())
    top = (1 << weight.bits) - 1
    if low < 0 or high > top:
        raise UnsupportedOperationError(
            f"{name}: cannot be written as {layout}: zero-points reach from {low} to {high}, the "
            f"layout has {weight.bits} bits for them (0 to {top})"
        )
    if layout == "gptq" and low == 0:
        raise UnsupportedOperationError(
            f"{name}: cannot be written as gptq (version 1): it stores zero-points less one, and "
            f"its readers disagree on what a zero-point of 0 becomes; use "
            f"checkpoint_format='gptq_v2'"
        )
    if is_planar(layout, weight.bits):
        if word != torch.int32 or weight.shape[0] % 32 or weight.shape[1] % 32:
            raise UnsupportedOperationError(
                f"{name}: cannot be written as gptq_p: planes come in blocks of 32 rows and "
                f"columns and words of 32 bits, the weight is {tuple(weight.shape)}"
            )
    elif weight.bits in (5, 6, 7):
        raise UnsupportedOperationError(
            f"{name}: codes of {weight.bits} bits can only be written as gptq_p, not as {layout}"
        )
