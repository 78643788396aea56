"""The `gemm` layout: codes packed along the outputs, 4-bit ones interleaved.

qweight int32 `[in_features, words]`, qzeros int32 `[groups, words]`, scales
`[groups, out_features]`. Widths other than 4 are one plain bit stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantload.weights.affine import AffineWeight, zeros_dtype
from quantload.weights.affine.interleave import deinterleave, interleave
from quantload.weights.affine.planes import pack_planes
from quantload.weights.affine.streams import pack_stream, tail_of, unpack_stream
from quantload_awq.headers import Found


def read(name: str, tensors: Mapping[str, Tensor], found: Found, bits: int) -> dict[str, Any]:  # noqa: ARG001  one signature for all layouts
    """The parts of a weight."""
    words = tensors["qweight"].T
    kept: dict[str, Tensor] = {}
    tail = tail_of(words, found.rows * bits)
    if tail is not None:
        kept["tail"] = tail
    zeros = None
    if found.zeros is not None:
        zeros = _codes(tensors["qzeros"].T, bits, found.rows).to(zeros_dtype(bits))
        if not torch.equal(_words(zeros, bits), tensors["qzeros"]):
            kept["qzeros"] = tensors["qzeros"]
    return {
        "codes": pack_planes(_codes(words, bits, found.rows), bits),
        "scales": tensors["scales"].T.contiguous(),
        "zeros": zeros,
        "kept": kept,
    }


def write(weight: AffineWeight, with_zeros: bool) -> dict[str, Tensor]:
    """The tensors of a layer."""
    kept = weight.kept()
    qweight = _words(weight.plain_codes(), weight.bits)
    if "tail" in kept:
        qweight[:, -1] |= kept["tail"]
    tensors = {"qweight": qweight}
    if with_zeros:
        qzeros = kept.get("qzeros")
        tensors["qzeros"] = _words(weight.zero_points(), weight.bits) if qzeros is None else qzeros
    return {**tensors, "scales": weight.scales.T.contiguous()}


def _codes(words: Tensor, bits: int, rows: int) -> Tensor:
    """Fields uint8 `[rows, n]` of words int32 `[w, n]`."""
    codes = unpack_stream(words, bits, rows)
    return deinterleave(codes) if bits == 4 else codes


def _words(codes: Tensor, bits: int) -> Tensor:
    """The inverse of `_codes`, transposed: words int32 `[n, w]`."""
    fields = codes.to(torch.uint8)
    return pack_stream(interleave(fields) if bits == 4 else fields, bits).T.contiguous()
