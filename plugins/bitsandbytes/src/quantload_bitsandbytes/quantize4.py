"""Blockwise 4-bit quantization, bit for bit what the library's CPU quantizer gives.

The weight is taken flat, in row-major order, in blocks of 32 to 4096 elements that cross
row borders; the last block may be short. Each block is divided by its largest magnitude
and rounded to one of 16 values.

What the library does at the edges (0.50.2, `backends/default`), and so does this:

* a full block is multiplied with the reciprocal of its absmax (of 1e-38 where that is
  larger), a short last block is divided by it; the absmax stored for a short last block
  is at least 1e-38, that of a full block may be 0;
* a NaN makes the absmax of its block NaN and every code of the block the largest value's;
  an infinity makes the absmax infinite, its own code the largest value's, others' zero;
* for FP4 the codes of exactly zero and of tiny negatives are 0, of tiny positives 8 (both
  stand for zero);
* where the number of elements is odd, the last half byte is the code of zero.

On CUDA the library has a kernel of its own with other edges: bounds written out in decimal
(some a bit in the last place off the midpoints), codes 0 in blocks of zeros (NF4), tiny
negatives 8 and tiny positives 0 (FP4), a reciprocal for the short block too. There the
library's kernel is used, for that is what people's checkpoints are made with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantload_bitsandbytes.rounding import RoundingTable, rounding_table
from quantload_bitsandbytes.workspace import Workspace, carve

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)

CHUNK = 1 << 19
"""Elements that are worked on at a time: their scratch stays in a core's cache."""
CHUNK_ON_ACCELERATOR = 1 << 24

_TINY = 1e-38


@dataclass(frozen=True)
class Quantized4:
    """A weight in 4 bits.

    Attributes:
        packed: uint8 `[ceil(n / 2)]`, two codes a byte, the first in the high half.
        absmax: float32 `[ceil(n / block_size)]`.
    """

    packed: Tensor
    absmax: Tensor


def quantize_4bit(
    weight: Tensor,
    block_size: int = 64,
    quant_type: str = "nf4",
    workspace: Workspace | None = None,
) -> Quantized4:
    """Quantize a float tensor of any shape.

    Args:
        weight: float32, bfloat16 or float16; it is only read, and need not be contiguous.
        block_size: one of `BLOCK_SIZES`.
        quant_type: "nf4" or "fp4".
        workspace: scratch buffers to use again; its own for this call where None.

    Raises:
        ValueError: another dtype or block size.
    """
    if weight.dtype not in FLOATS:
        raise ValueError(f"weight: found {weight.dtype}, expected one of {FLOATS}")
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"block_size: found {block_size}, expected one of {BLOCK_SIZES}")
    table = rounding_table(quant_type, weight.device)
    with torch.no_grad():
        return _quantize(weight.detach(), block_size, table, workspace or Workspace())


def _quantize(
    weight: Tensor, block_size: int, table: RoundingTable, workspace: Workspace
) -> Quantized4:
    flat = weight.reshape(-1)
    n = flat.numel()
    full = n - n % block_size
    packed = torch.empty((n + 1) // 2, dtype=torch.uint8, device=flat.device)
    absmax = torch.empty(-(-n // block_size), dtype=torch.float32, device=flat.device)
    on_cpu = flat.device.type == "cpu"
    step = CHUNK if on_cpu else CHUNK_ON_ACCELERATOR
    size = min(step, full)

    def work(start: int, stop: int) -> None:
        with workspace.borrow(16 * size + 256, flat.device) as buffer:
            _full_blocks(
                flat[start:stop],
                block_size,
                table,
                buffer,
                absmax[start // block_size : stop // block_size],
                packed[start // 2 : stop // 2],
            )

    workspace.in_chunks(full, step, work, each=1 if on_cpu else 0)
    if full < n:
        _short_block(flat[full:], table, absmax[-1:], packed[full // 2 :])
    return Quantized4(packed, absmax)


def _full_blocks(
    x: Tensor, block_size: int, table: RoundingTable, buffer: Tensor, absmax: Tensor, packed: Tensor
) -> None:
    n = x.numel()
    scaled, half, symbol, symbol8 = carve(
        buffer, n, torch.float32, torch.int32, torch.int32, torch.uint8
    )
    blocks = scaled.view(-1, block_size)
    scaled.copy_(x)
    magnitude = half.view(torch.float32)
    torch.abs(scaled, out=magnitude)
    torch.amax(magnitude.view(-1, block_size), 1, out=absmax)
    blocks.mul_(absmax.clamp(min=_TINY).reciprocal_().unsqueeze_(1))
    bits = scaled.view(torch.int32)
    torch.bitwise_right_shift(bits, 16, out=half)
    half.bitwise_and_(0xFFFF)
    torch.index_select(table.symbols, 0, half, out=symbol)
    bits.bitwise_and_(0xFFFF)
    symbol.add_(bits).bitwise_right_shift_(16)
    symbol8.copy_(symbol)
    pair = half[: n // 2]
    pair.copy_(symbol8.view(torch.int16))
    torch.index_select(table.pairs, 0, pair, out=packed)


def _short_block(x: Tensor, table: RoundingTable, absmax: Tensor, packed: Tensor) -> None:
    numbers = x.float()
    torch.clamp(numbers.abs().max(), min=_TINY, out=absmax[0])
    scaled = torch.clamp(numbers / absmax, -1, 1)
    if scaled.numel() % 2:
        scaled = torch.nn.functional.pad(scaled, (0, 1))
    codes = table.order[torch.bucketize(scaled, table.bounds)].to(torch.uint8)
    packed.copy_((codes[::2] << 4) | codes[1::2])
