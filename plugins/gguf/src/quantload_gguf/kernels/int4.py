"""`Int4Kernel`: ggml blocks through torch's int4 matmul on the CPU.

A code of more than four bits is cut into two nibbles, whose products are one product
over twice as many columns. A type whose groups have 16 elements, which is less than
the matmul takes, goes twice: with the mean of the two scales of each 32 elements, and
with half their difference and the second 16 inputs negated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantload.kernels.contract import Kernel, KernelSpec
from quantload.verdict import Verdict
from quantload.weights.autograd import linear_through
from quantload_gguf.ggml import ggml_type
from quantload_gguf.kernels import products, tiles
from quantload_gguf.kernels.codes import AFFINE, Affine
from quantload_gguf.kernels.products import GROUP

if TYPE_CHECKING:
    from quantload.weights.packed import PackedWeight

CHUNK_ROWS = 512
"""Rows of a weight that are arranged or restored at a time."""


class Int4Kernel(Kernel):
    """Few rows: torch's int4 matmul. Many: decoded tile by tile, then multiplied."""

    name = "ggml-int4"
    priority = 10

    def supports(self, spec: KernelSpec) -> Verdict:
        """Affine types in bfloat16, with rows that fill tiles."""
        kind = str(spec.params.get("ggml_type"))
        if spec.layout != "ggml" or spec.device.type != "cpu":
            return Verdict.no(f"is for ggml blocks on the CPU, not {spec.layout} on {spec.device}")
        if kind not in AFFINE:
            return Verdict.no(f"has no form for {kind}; it has for {', '.join(AFFINE)}")
        if spec.dtype != torch.bfloat16:
            return Verdict.no(
                f"is fast in bfloat16 only, the compute dtype is {spec.dtype}",
                "load with dtype=torch.bfloat16",
            )
        tile = tiles.tile_rows()
        if not tile:
            return Verdict.no("torch has no int4 matmul on this CPU in a layout that is known")
        if len(spec.shape) != 2 or spec.shape[0] % tile:
            return Verdict.no(f"needs rows in multiples of {tile}, the shape is {spec.shape}")
        return Verdict.yes()

    def arrange(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """Nibbles in tiles, scales in bfloat16, and the exact scales as they were."""
        affine, kind = AFFINE[_type(weight)], ggml_type(_type(weight))
        blocks = weight.storage()["blocks"]
        rows, columns = weight.shape
        planes = 1 + (affine.bits > 4)
        passes = GROUP // affine.group
        codes = blocks.new_empty(rows, planes * columns // 2)
        groups = planes * columns // GROUP
        scaling = blocks.new_empty(passes, groups, rows, 2, dtype=torch.bfloat16)
        for start in range(0, rows, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, rows)
            part = blocks[start:stop].reshape(-1, kind.nbytes)
            codes[start:stop] = _codes(part, affine, stop - start)
            # Scale and zero move together, as one word of four bytes.
            pairs = _scaling(part, affine, stop - start).to(torch.bfloat16).view(torch.int32)
            scaling.view(torch.int32)[:, :, start:stop, 0] = pairs.squeeze(-1).transpose(1, 2)
        each = blocks.view(-1, kind.nbytes)
        kept = torch.cat([each[:, a:b] for a, b in affine.scales], dim=1).view(rows, -1)
        return {"codes": codes, "scaling": scaling, "kept": kept}

    def restore(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """The blocks, byte for byte."""
        stored = weight.storage()
        rows = weight.shape[0]
        parts = []
        for start in range(0, rows, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, rows)
            codes = tiles.unpack(stored["codes"][start:stop], tiles.tile_rows())
            parts.append(_blocks(codes, stored["kept"][start:stop], _type(weight)))
        return {"blocks": torch.cat(parts)}

    def blocks_of_rows(self, weight: PackedWeight, ids: Tensor) -> Tensor:
        """The blocks of some rows, uint8 `[len(ids), bytes per row]`."""
        stored = weight.storage()
        codes = tiles.rows_of(stored["codes"], tiles.tile_rows(), ids)
        return _blocks(codes, stored["kept"][ids], _type(weight))

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """See `Kernel.linear`."""
        if x.dtype != torch.bfloat16 or (torch.is_grad_enabled() and x.requires_grad):
            return linear_through(weight, x)
        stored = weight._parameters
        codes, scaling = stored["codes"], stored["scaling"]
        assert codes is not None
        assert scaling is not None
        compiling = torch.compiler.is_compiling()
        run: Any = torch.ops.quantload_gguf.int4_linear if compiling else products.int4_linear
        found: Tensor = run(x.reshape(-1, x.shape[-1]), codes, scaling, AFFINE[_type(weight)].bits)
        return found.view(*x.shape[:-1], weight.shape[0])


def _type(weight: PackedWeight) -> str:
    name: Any = weight.kernel_params()["ggml_type"]
    return str(name)


def _codes(blocks: Tensor, affine: Affine, rows: int) -> Tensor:
    """The codes of some rows in tiles."""
    tile = tiles.tile_rows()
    if affine.nibbles is None:
        return tiles.pack(_planes(affine.split(blocks).view(rows, -1), affine), tile)
    start, run = affine.nibbles
    return tiles.pack_nibbles(blocks[:, start:].reshape(rows, -1), run, tile)


def _planes(codes: Tensor, affine: Affine) -> Tensor:
    """Codes as nibbles `[rows, planes * columns]`, the low ones first."""
    if affine.bits <= 4:
        return codes + _lift(affine.bits) if affine.bits < 4 else codes
    return torch.cat([codes & 15, (codes >> 4) + _lift(affine.bits - 4)], dim=1)


def _lift(bits: int) -> int:
    """What is added to codes of so many bits for 8 to stand for the middle of their range."""
    return 8 - (1 << (bits - 1))


def _scaling(blocks: Tensor, affine: Affine, rows: int) -> Tensor:
    """Scales and zeros as the matmul takes them, for numbers `(nibble - 8) * scale + zero`.

    Returns:
        float32 `[passes, rows, groups, 2]`.
    """
    scale, offset = (part.view(rows, -1) for part in affine.affine(blocks))
    zero = offset + _middle(affine.bits) * scale
    pair = torch.stack([scale, zero], dim=-1)  # [rows, groups, 2]
    if affine.group == GROUP:
        passes = pair.unsqueeze(0)
    else:
        first, second = pair[:, ::2], pair[:, 1::2]
        passes = torch.stack([(first + second) / 2, (first - second) / 2])
    if affine.bits > 4:
        high = torch.stack([passes[..., 0] * 16, torch.zeros_like(passes[..., 0])], dim=-1)
        passes = torch.cat([passes, high], dim=2)
    return passes


def _middle(bits: int) -> int:
    """The code whose nibbles are all 8."""
    return 1 << (bits - 1) if bits <= 4 else 8 + (16 << (bits - 5))


def _blocks(nibbles: Tensor, kept: Tensor, name: str) -> Tensor:
    """Blocks from nibbles `[rows, planes * columns]` and the kept scales `[rows, bytes]`."""
    affine, kind = AFFINE[name], ggml_type(name)
    if affine.bits > 4:
        low, high = nibbles.chunk(2, dim=1)
        nibbles = low | ((high - _lift(affine.bits - 4)) << 4)
    elif affine.bits < 4:
        nibbles = nibbles - _lift(affine.bits)
    codes = nibbles.reshape(-1, kind.elements)
    blocks = codes.new_empty(codes.shape[0], kind.nbytes)
    start = 0
    scales = kept.reshape(codes.shape[0], -1)
    for a, b in affine.scales:
        blocks[:, a:b] = scales[:, start : start + b - a]
        start += b - a
    affine.join(blocks, codes)
    return blocks.view(nibbles.shape[0], -1)
