"""Layers as weights: group-wise integers of the core where they are that, a layout here if not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantload.plugin import AffineWeight, Origin, PackedWeight, UnsupportedOperationError
from quantload_hqq.layer import Layer, encoded
from quantload_hqq.packing import pack, unpack

FORMAT = "hqq"


class HqqWeight(PackedWeight):
    """A layer whose groups are no parts of rows, or whose codes have one bit.

    Args:
        layer: what it is.
        words: `layer.words`, in the dtype of the packing.
        scale: `layer.parameters`.
        zero: likewise.
        settings: the other tensors of the checkpoint, as values.
        dtype: compute dtype.
    """

    layout = "hqq"

    words: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(
        self,
        layer: Layer,
        words: Tensor,
        scale: Tensor,
        zero: Tensor,
        settings: Mapping[str, Any],
        dtype: torch.dtype,
    ) -> None:
        super().__init__(layer.shape, dtype)
        self.layer = layer
        self.settings = dict(settings)
        self.store("words", words)
        self.store("scale", scale)
        self.store("zero", zero)

    def kernel_params(self) -> Mapping[str, Any]:
        """See `PackedWeight.kernel_params`."""
        return {"nbits": self.layer.nbits, "axis": self.layer.axis, "packing": self.layer.packing}

    def decode(self, dtype: torch.dtype) -> Tensor:
        """See `PackedWeight.decode`."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        codes = unpack(self.words, self.layer.how, self.layer.matrix[0]).to(wide)
        numbers = (codes - self.zero.to(wide)) * self.scale.to(wide)
        return numbers.reshape(self.layer.shape).to(dtype)


def from_codes(
    layer: Layer,
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    settings: Mapping[str, Any],
    dtype: torch.dtype,
) -> PackedWeight:
    """The weight of a layer.

    Args:
        layer: what it is.
        codes: uint8 `layer.matrix`.
        scale: `layer.parameters`.
        zero: likewise.
        settings: what its checkpoint says beside.
        dtype: compute dtype.
    """
    if not layer.by_rows:
        return HqqWeight(layer, pack(codes, layer.how), scale, zero, settings, dtype)
    rows, groups = layer.shape[0], layer.shape[1] // layer.group_size
    scales, zeros = scale.reshape(rows, groups), zero.reshape(rows, groups)
    # the product of two numbers of 11 bits is exact in 24, so the zero-point is not lost
    offsets = -(scales.to(torch.float32) * zeros.to(torch.float32))
    lost = not torch.equal(_zeros(scales, offsets), zeros)
    return AffineWeight.from_codes(
        codes.reshape(layer.shape),
        scales,
        bits=layer.how.bits,
        group_size=layer.group_size,
        dtype=dtype,
        offsets=offsets,
        origin=Origin(FORMAT, {"layer": layer, "settings": dict(settings)}),
        kept={"zero": zeros.contiguous()} if lost or scale.dtype == torch.float32 else None,
    )


def empty(layer: Layer, scale_dtype: torch.dtype, dtype: torch.dtype) -> PackedWeight:
    """The same on meta, of the size it will have."""
    meta = torch.device("meta")
    if not layer.by_rows:
        words = torch.empty(layer.words, dtype=layer.how.dtype, device=meta)
        scale = torch.empty(layer.parameters, dtype=scale_dtype, device=meta)
        return HqqWeight(layer, words, scale, torch.empty_like(scale), {}, dtype)
    weight = AffineWeight.empty(
        layer.shape,
        dtype,
        bits=layer.how.bits,
        group_size=layer.group_size,
        scale_dtype=scale_dtype,
        has_zeros=False,
        has_offsets=True,
        offset_dtype=torch.float32,
    )
    if scale_dtype == torch.float32:
        weight.store("kept_zero", torch.empty_like(weight.scales))
    return weight


def tensors_of(name: str, weight: PackedWeight) -> dict[str, Tensor]:
    """The tensors of a checkpoint, byte for byte those the weight was read from.

    Args:
        name: of the module, for messages.
        weight: in canonical storage.

    Raises:
        UnsupportedOperationError: it is no HQQ layer, nor a part of one.
    """
    if isinstance(weight, HqqWeight):
        layer, settings, words = weight.layer, weight.settings, weight.words.detach()
        scale, zero = weight.scale.detach(), weight.zero.detach()
    elif isinstance(weight, AffineWeight) and weight.origin and weight.origin.format == FORMAT:
        layer, settings = weight.origin.facts["layer"], weight.origin.facts["settings"]
        words = pack(weight.plain_codes().reshape(layer.matrix), layer.how)
        held = weight.storage()
        scale = held["scales"].reshape(layer.parameters)
        zero = held.get("kept_zero", _zeros(held["scales"], held["offsets"]))
        zero = zero.reshape(layer.parameters)
    else:
        raise UnsupportedOperationError(
            f"{name}: this {type(weight).__name__} does not come from an HQQ layer and cannot be "
            f"written as one; load the model with a HqqConfig"
        )
    if layer.viewed is not None:
        words = words.contiguous().view(layer.viewed)
    return {"W_q": words, "scale": scale, "zero": zero, **encoded(settings)}


def _zeros(scales: Tensor, offsets: Tensor) -> Tensor:
    """The zero-points behind offsets, in the dtype of the scales."""
    return (-offsets / scales.to(torch.float32)).to(scales.dtype)
