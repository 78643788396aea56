"""Double quantization: the absmax of every block, quantized to 8 bits in its turn.

The mean is taken off, and what is left is quantized in blocks of 256 with the dynamic
map. The library's CPU kernel (0.50.2) does not search the map: it reads a table of 65536
equal steps over [-1, 1], each with the code nearest to it, and so do we, bit for bit. A
NaN counts as nothing when the largest magnitude is sought and gets code 0; so does every
element of a block of zeros.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload_bitsandbytes.codebooks import dynamic_map
from quantload_bitsandbytes.workspace import Workspace

NESTED_BLOCK_SIZE = 256

_STEPS = 65535


@dataclass(frozen=True)
class NestedAbsmax:
    """The absmax of every block, in 8 bits.

    Attributes:
        codes: uint8 `[n_blocks]`.
        absmax: float32 `[ceil(n_blocks / 256)]`.
        offset: what was taken off, a float32 scalar.
    """

    codes: Tensor
    absmax: Tensor
    offset: Tensor


@functools.cache
def _steps(device: torch.device) -> Tensor:
    """Code of the value nearest to each of 65536 equal steps over [-1, 1]."""
    with torch.inference_mode(mode=False):
        values = dynamic_map()
        centres = torch.arange(_STEPS + 1, dtype=torch.float64, device="cpu") / _STEPS * 2 - 1
        bounds = (values[:-1] + values[1:]) / 2
        return torch.bucketize(centres.float(), bounds).to(torch.uint8).to(device)


def quantize_absmax(absmax: Tensor, workspace: Workspace | None = None) -> NestedAbsmax:
    """Quantize float32 `[n_blocks]`.

    The mean is torch's over all of them, which depends in its last bit on how many
    threads share the sum; it is taken as the library takes it.
    """
    with torch.no_grad():
        offset = absmax.mean()
        size = absmax.numel() if absmax.device.type == "cpu" else 0
        space = workspace or Workspace()
        codes, scale = space.unsplit(size, lambda: _quantize(absmax - offset))
        return NestedAbsmax(codes, scale, offset)


def _quantize(centred: Tensor) -> tuple[Tensor, Tensor]:
    n = centred.numel()
    blocks = F.pad(centred, (0, -n % NESTED_BLOCK_SIZE)).view(-1, NESTED_BLOCK_SIZE)
    scale = blocks.abs().nan_to_num_(nan=0.0, posinf=torch.inf).amax(1)
    scaled = blocks * scale.reciprocal().unsqueeze(1)
    scaled = scaled.clamp_(-1, 1).nan_to_num_(nan=-1.0)
    index = ((scaled + 1.0) * 0.5 * _STEPS + 0.5).to(torch.int32)
    return _steps(centred.device).index_select(0, index.view(-1))[:n].clone(), scale


def dequantize_absmax(
    codes: Tensor,
    absmax: Tensor,
    values: Tensor,
    offset: float,
    block_size: int = NESTED_BLOCK_SIZE,
) -> Tensor:
    """The absmax of every block, float32 `[n_blocks]`.

    Args:
        codes: uint8 `[n_blocks]`.
        absmax: float32 `[ceil(n_blocks / block_size)]`.
        values: what each code stands for, float32 `[256]`.
        offset: what was taken off before quantizing.
        block_size: elements of `codes` that share an entry of `absmax`.
    """
    n = codes.numel()
    result = values.index_select(0, codes.view(-1).to(torch.int32))
    full = n - n % block_size
    whole = full // block_size
    result[:full].view(-1, block_size).mul_(absmax[:whole].unsqueeze(1))
    if full < n:
        result[full:].mul_(absmax[whole])
    return result.add_(offset)
