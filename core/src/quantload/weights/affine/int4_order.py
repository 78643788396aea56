"""The order in which torch's int4 product for CPUs keeps its codes.

`torch.ops.aten._convert_weight_to_int4pack_for_cpu` takes codes int32 `[N, K]` and gives
uint8 `[N, K / 2]`, arranged in blocks of rows: for each block and each column, first
the low nibbles hold the first half of the block's rows and the high nibbles the
second. The height of a block is a matter of the machine (64 with AVX-512, 32 with
AVX2; other machines arrange codes in other ways), so it is found out by asking.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

_CODES_AT_ONCE = 1 << 23
"""Bound on the int32 copy that torch's converter wants, in codes."""


@cache
def block_rows() -> int:
    """Rows of a block on this machine; 0 where torch arranges codes in another way."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (128, 64), dtype=torch.uint8, generator=generator, device="cpu")
    for block in (64, 32):
        if torch.equal(rows_of(pack(codes, block)), codes):
            return block
    return 0


def pack(codes: Tensor, block: int) -> Tensor:
    """Codes uint8 `[rows, columns]` as `[rows // block, columns, block // 2]`."""
    rows, columns = codes.shape
    step = max(block, _CODES_AT_ONCE // columns // block * block)
    parts = [_converted(codes[start : start + step]) for start in range(0, rows, step)]
    packed = parts[0] if len(parts) == 1 else torch.cat(parts)
    return packed.view(rows // block, columns, block // 2)


def rows_of(packed: Tensor) -> Tensor:
    """The inverse of `pack`: uint8 `[rows, columns]`."""
    blocks, columns, half = packed.shape
    codes = packed.new_empty((blocks, 2, half, columns))
    turned = packed.transpose(1, 2).contiguous()
    torch.bitwise_and(turned, 15, out=codes[:, 0])
    torch.bitwise_right_shift(turned, 4, out=codes[:, 1])
    return codes.view(blocks * half * 2, columns)


def some_rows(packed: Tensor, ids: Tensor, block: int) -> Tensor:
    """Codes uint8 `[len(ids), columns]` of some rows of packed `[rows, columns // 2]`."""
    place, half = ids % block, block // 2
    both = packed.view(-1, 2 * packed.shape[1], half)[ids // block, :, place % half]
    return torch.where((place >= half)[:, None], both >> 4, both & 15)


def _converted(codes: Tensor) -> Tensor:
    converted: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)
    return converted
