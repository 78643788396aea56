"""The `gemv` layout: rows of words along the inputs, scales padded to whole words of zeros.

qweight int32 `[out_features, in_features // 8]`, qzeros int32 `[out_features, words]`,
scales `[out_features, words * 8]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.weights.affine import AffineWeight, zeros_dtype
from quantload.weights.affine.fields import recast
from quantload.weights.affine.planes import row_bytes
from quantload.weights.affine.streams import pack_stream, unpack_stream
from quantload_awq.headers import Found, padded_words
from quantload_awq.padding import check_padding

_BITS = 4
_PER_WORD = 8


def read(name: str, tensors: Mapping[str, Tensor], found: Found, bits: int) -> dict[str, Any]:
    """The parts of a weight.

    Raises:
        CheckpointError: the scales show another number of groups.
    """
    scales, qzeros = tensors["scales"], tensors["qzeros"]
    check_padding(f"{name}.scales", scales, found.groups)
    zeros = unpack_stream(qzeros.T, _BITS, found.groups).T.to(zeros_dtype(bits))
    width = qzeros.shape[1]
    same = torch.equal(_words(zeros, width), qzeros)
    codes = recast(tensors["qweight"], torch.uint8).view(found.rows, -1)
    missing = row_bytes(found.columns, _BITS) - codes.shape[1]
    return {
        "codes": F.pad(codes, (0, missing)) if missing else codes,
        "scales": scales[:, : found.groups].contiguous(),
        "zeros": zeros.contiguous(),
        "kept": {} if same else {"qzeros": qzeros},
        "facts": {"width": width},
    }


def write(weight: AffineWeight) -> dict[str, Tensor]:
    """The tensors of a layer."""
    kept = weight.kept()
    rows, columns = weight.shape
    facts = weight.origin.facts if weight.origin is not None else {}
    width = facts.get("width", padded_words(weight.groups, weight.group_size))
    codes = recast(weight.codes[:, : columns // 2], torch.int32)
    qzeros = kept.get("qzeros")
    return {
        "qweight": codes.view(rows, -1).clone(),
        "qzeros": _words(weight.zero_points(), width) if qzeros is None else qzeros,
        "scales": F.pad(weight.scales, (0, width * _PER_WORD - weight.groups)),
    }


def _words(zeros: Tensor, width: int) -> Tensor:
    fields = F.pad(zeros.to(torch.uint8), (0, width * _PER_WORD - zeros.shape[1]))
    return pack_stream(fields.T, _BITS).T.contiguous()
