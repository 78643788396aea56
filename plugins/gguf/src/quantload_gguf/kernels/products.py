"""The products of arranged weights, as an operator that `torch.compile` takes whole."""

from __future__ import annotations

import torch
from torch import Tensor

from quantload_gguf.kernels import tiles

GROUP = 32
"""Elements of a group of torch's matmul, the fewest it takes."""
FEW_ROWS = {1: 72, 2: 24, 4: 12}
"""Up to so many rows of input the codes are multiplied as they are, by how many times
they are gone through. Read off benchmarks/gguf_products.py on two cores with AVX-512."""
DECODED, MULTIPLIED = 1 << 19, 1 << 22
"""Elements of a weight that are decoded at a time, and that are multiplied with at a time."""

torch.library.define(
    "quantload_gguf::int4_linear", "(Tensor x, Tensor codes, Tensor scaling, int bits) -> Tensor"
)


def int4_linear(x: Tensor, codes: Tensor, scaling: Tensor, bits: int) -> Tensor:
    """`x @ W.T` for a weight that `Int4Kernel.arrange` arranged.

    Args:
        x: bfloat16 `[n, columns]`.
        codes: nibbles in tiles, uint8 `[rows, planes * columns // 2]`.
        scaling: bfloat16 `[passes, planes * columns // 32, rows, 2]`.
        bits: of a code.
    """
    x = x.contiguous()
    if not x.numel():
        return x.new_zeros(x.shape[0], codes.shape[0])
    times = scaling.shape[0] * scaling.shape[1] * GROUP // x.shape[1]
    if x.shape[0] <= FEW_ROWS[times]:
        return _few(x, codes, scaling)
    return _many(x, codes, scaling, bits)


def _fake(x: Tensor, codes: Tensor, scaling: Tensor, bits: int) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape[0], codes.shape[0])


torch.library.impl("quantload_gguf::int4_linear", "cpu", int4_linear)
torch.library.register_fake("quantload_gguf::int4_linear", _fake)


def _few(x: Tensor, codes: Tensor, scaling: Tensor) -> Tensor:
    wide = x if 2 * codes.shape[1] == x.shape[1] else torch.cat([x, x], dim=1)
    found = torch._weight_int4pack_mm_for_cpu(wide, codes, GROUP, scaling[0])
    if scaling.shape[0] == 2:
        signed = _second_half_negated(wide)
        found = found + torch._weight_int4pack_mm_for_cpu(signed, codes, GROUP, scaling[1])
    return found


def _second_half_negated(x: Tensor) -> Tensor:
    groups = x.view(x.shape[0], -1, 2, GROUP // 2)
    return torch.stack([groups[:, :, 0], -groups[:, :, 1]], dim=2).view(x.shape)


def _many(x: Tensor, codes: Tensor, scaling: Tensor, bits: int) -> Tensor:
    tile = tiles.tile_rows()
    rows, inner = codes.shape[0], x.shape[1]
    found = x.new_empty(x.shape[0], rows)
    step = max(tile, MULTIPLIED // inner // tile * tile)
    part = max(tile, DECODED // inner // tile * tile)
    matrix = x.new_empty(inner, min(step, rows))
    space = x.new_empty(min(part, rows) * inner, dtype=torch.float32)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        for a in range(start, stop, part):
            b = min(a + part, stop)
            target = matrix[:, a - start : b - start]
            _decode(codes[a:b], scaling[:, :, a:b], bits, target, space)
        found[:, start:stop] = x @ matrix[:, : stop - start]
    return found


def _decode(codes: Tensor, scaling: Tensor, bits: int, out: Tensor, space: Tensor) -> None:
    """Write the transpose of some rows of the weight, bfloat16 `[inner, rows]`.

    `space` is float32 with room for `inner * rows` numbers.
    """
    rows, inner, tile = codes.shape[0], out.shape[0], tiles.tile_rows()
    packed = codes.view(rows // tile, -1, inner, tile // 2)
    low, high = packed & 15, packed >> 4
    if bits > 4:
        low = low[:, :1] | (low[:, 1:] << 4)
        high = high[:, :1] | (high[:, 1:] << 4)
    numbers = space[: inner * rows].view(rows // tile, 1, inner, tile)
    numbers[..., : tile // 2] = low
    numbers[..., tile // 2 :] = high
    groups = numbers.view(rows // tile, inner // GROUP, GROUP, tile)
    # What nibbles were lifted by is taken back with their zero.
    pairs = scaling[:, : inner // GROUP].to(torch.float32)
    pairs = pairs.view(*pairs.shape[:2], rows // tile, 1, tile, 2).transpose(1, 2)
    lifted = 8 if bits <= 4 else 8 + 16 * 8
    # Every other number of a pair would be many times as slow to multiply with.
    scale = pairs[..., 0].contiguous()
    zero = pairs[..., 1].contiguous() - lifted * scale
    if scaling.shape[0] == 2:
        halves = groups.view(*groups.shape[:2], 2, GROUP // 2, tile)
        halves[:, :, 0].mul_(scale[0] + scale[1]).add_(zero[0] + zero[1])
        halves[:, :, 1].mul_(scale[0] - scale[1]).add_(zero[0] - zero[1])
    else:
        torch.addcmul(zero[0], groups, scale[0], out=groups)
    # Rounding and moving in one go would take torch many times as long.
    rounded = numbers.view(rows // tile, inner, tile).to(out.dtype)
    out.view(inner, rows // tile, tile).copy_(rounded.transpose(0, 1))
