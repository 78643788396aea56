"""From numbers to blocks of the simple types, as the `gguf` package makes them.

Source: `quantize_blocks` of Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 in `gguf.quants`
(0.19), which follows `quantize_row_q*_ref` in ggml-quants.c. Codes are made with the
scale before it is rounded to a half float. The bytes are the same but for the sign of a
minimum of zero in a block that holds zeros of both signs, which numpy leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from quantload.errors import UnsupportedOperationError
from quantload_gguf.blocks.decode import CHUNK
from quantload_gguf.ggml import GgmlType, ggml_type

Encoder = Callable[[Tensor, Tensor], Tensor]


def q4_0(values: Tensor, out: Tensor) -> Tensor:
    """The value furthest from zero becomes code 0."""
    scale = _furthest(values).div_(-8)
    codes = _codes(values, scale, 8.5, 15)
    out[:, 2:] = _nibbles(codes)
    return scale


def q4_1(values: Tensor, out: Tensor) -> Tensor:
    """The minimum becomes code 0, the maximum code 15."""
    scale = _range(values, out, 15)
    codes = _codes(values, scale, 0.5, 15)
    out[:, 4:] = _nibbles(codes)
    return scale


def q5_0(values: Tensor, out: Tensor) -> Tensor:
    """As Q4_0 with 32 codes."""
    scale = _furthest(values).div_(-16)
    codes = _codes(values, scale, 16.5, 31)
    out[:, 2:6] = _fifth_bits(codes)
    out[:, 6:] = _nibbles(codes & 15)
    return scale


def q5_1(values: Tensor, out: Tensor) -> Tensor:
    """As Q4_1 with 32 codes."""
    scale = _range(values, out, 31)
    codes = _codes(values, scale, 0.5, 31)
    out[:, 4:8] = _fifth_bits(codes)
    out[:, 8:] = _nibbles(codes & 15)
    return scale


def q8_0(values: Tensor, out: Tensor) -> Tensor:
    """The value furthest from zero becomes 127 or -127; halves are rounded away from zero."""
    scale = values.abs().amax(1, keepdim=True).div_(127)
    scaled = values * _inverse(scale)
    size = scaled.abs()
    whole = size.floor()
    rounded = whole.add_(size.sub_(whole).mul_(2).floor_())
    out[:, 2:] = rounded.mul_(scaled.sign()).to(torch.int8).view(torch.uint8)
    return scale


ENCODERS: Mapping[str, Encoder] = {
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q5_1": q5_1,
    "Q8_0": q8_0,
}
"""Type -> function of float32 `[n, 32]` (may be changed) and uint8 `[n, bytes per block]`,
which fills in all but the scale and returns it, float32 `[n, 1]`."""


def quantize(weight: Tensor, which: str | int | GgmlType) -> Tensor:
    """Blocks for a float tensor, on the device it is on.

    Args:
        weight: `[..., columns]`, of any floating-point dtype.
        which: the ggml type, by name or number.

    Returns:
        uint8 `[..., bytes per row]`, byte for byte what the `gguf` package gives.

    Raises:
        CheckpointError: no such type, or rows that do not fill its blocks.
        UnsupportedOperationError: nothing quantizes to this type, or the weight holds
            infinities, NaNs or numbers too large for a scale.
    """
    kind = ggml_type(which)
    encode = ENCODERS.get(kind.name)
    if encode is None:
        raise UnsupportedOperationError(
            f"quantizing to {kind.name} is not implemented; {', '.join(ENCODERS)} are"
        )
    shape = (*weight.shape[:-1], kind.row_bytes(weight.shape[-1]))
    flat = weight.detach().reshape(-1, kind.elements)
    out = torch.empty(flat.shape[0], kind.nbytes, dtype=torch.uint8, device=weight.device)
    step = CHUNK.get(weight.device.type, CHUNK["cuda"]) // kind.elements
    for begin in range(0, flat.shape[0], step):
        values = flat[begin : begin + step].to(torch.float32, copy=True)
        blocks = out[begin : begin + step]
        scale = encode(values, blocks).to(torch.float16)
        if not bool(scale.isfinite().all()):
            raise UnsupportedOperationError(
                f"the weight cannot be quantized to {kind.name}: it holds NaNs, infinities, or "
                f"numbers for which a half float is too small"
            )
        blocks[:, :2] = scale.view(torch.uint8)
    return out.view(shape)


def _furthest(values: Tensor) -> Tensor:
    """The value furthest from zero of each row, the first of several, `[n, 1]`."""
    high, low = values.amax(1, keepdim=True), values.amin(1, keepdim=True)
    found = torch.where(high > -low, high, low)
    ties = (high == -low).squeeze(1).nonzero().squeeze(1)
    if len(ties):
        rows = values[ties]
        found[ties] = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return found


def _range(values: Tensor, out: Tensor, steps: int) -> Tensor:
    """Moves the minimum of each row to zero, stores it, and gives the scale."""
    high, low = values.amax(1, keepdim=True), values.amin(1, keepdim=True)
    values.sub_(low)
    out[:, 2:4] = low.to(torch.float16).view(torch.uint8)
    return high.sub_(low).div_(steps)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0.0, 1 / scale)


def _codes(values: Tensor, scale: Tensor, offset: float, top: int) -> Tensor:
    scaled = values.mul_(_inverse(scale)).add_(offset)
    # Where the scale is so small that its inverse is infinite, the code is 0.
    scaled.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return scaled.to(torch.uint8).clamp_(max=top)


def _nibbles(codes: Tensor) -> Tensor:
    return codes[:, :16] | (codes[:, 16:] << 4)


def _fifth_bits(codes: Tensor) -> Tensor:
    bits = (codes >> 4).view(-1, 4, 8)
    found = bits[..., 0]
    for i in range(1, 8):
        found = found | (bits[..., i] << i)
    return found
