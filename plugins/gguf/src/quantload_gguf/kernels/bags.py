"""`BagsKernel`: ggml blocks through the embedding bags that torch ships for x86.

Codes of 5, 6 and 8 bits are kept in bytes, those of 3 in nibbles; the scales stay as the
blocks have them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantload.kernels.contract import Kernel, KernelSpec
from quantload.verdict import Verdict
from quantload.weights import bags
from quantload.weights.autograd import linear_through
from quantload_gguf.ggml import ggml_type
from quantload_gguf.kernels import bag_products, tiles
from quantload_gguf.kernels.codes import AFFINE
from quantload_gguf.kernels.levels import LEVELS

if TYPE_CHECKING:
    from quantload.weights.packed import PackedWeight


class BagsKernel(Kernel):
    """Few rows: codes are summed in float32 as they are. Many: decoded block by block."""

    name = "ggml-bags"
    priority = 20

    def supports(self, spec: KernelSpec) -> Verdict:
        """Every affine type, where the int4 matmul is slower or does not serve."""
        kind = str(spec.params.get("ggml_type"))
        if spec.layout != "ggml" or spec.device.type != "cpu":
            return Verdict.no(f"is for ggml blocks on the CPU, not {spec.layout} on {spec.device}")
        if kind not in AFFINE:
            return Verdict.no(f"has no form for {kind}; it has for {', '.join(AFFINE)}")
        if len(spec.shape) != 2:
            return Verdict.no(f"multiplies matrices, the shape is {spec.shape}")
        if not bags.available():
            return Verdict.no("torch has no fast embedding bags for this CPU")
        affine = AFFINE[kind]
        if (bags.stored_bits(affine.bits), spec.dtype) not in bag_products.FEW_ROWS:
            return Verdict.no(f"is not made for {spec.dtype}")
        tile = tiles.tile_rows()
        fits = spec.dtype == torch.bfloat16 and tile and not spec.shape[0] % tile
        if fits and affine.bits <= 4:
            return Verdict.no(f"the int4 matmul is faster with {kind} in bfloat16")
        return Verdict.yes()

    def arrange(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """Codes in a table, scales beside it, and the scale bytes as they were."""
        name = _type(weight)
        affine, kind = AFFINE[name], ggml_type(name)
        blocks = weight.storage()["blocks"]
        rows, columns = weight.shape
        stored, middle = bags.stored_bits(affine.bits), LEVELS[name].middle
        each = blocks.view(-1, kind.nbytes)
        scales = [
            None if part is None else _hidden(bags.spread(part.reshape(rows, -1), stored))
            for part in LEVELS[name].read(each)
        ]
        wide = bags.width(rows)
        tables = []
        for start in range(0, rows, wide):
            part = blocks[start : start + wide].reshape(-1, kind.nbytes)
            codes = affine.split(part).view(-1, columns)
            tables.append(bags.pack(_filled(codes, wide, middle), stored, middle))
        kept = torch.cat([each[:, a:b] for a, b in affine.scales], dim=1).view(rows, -1)
        starts = torch.arange(0, columns, affine.group, dtype=torch.int32)
        names = ("outer", "inner", "outer_added", "inner_added")
        return {
            "table": torch.cat(tables),
            **dict(zip(names, scales, strict=True)),
            "starts": starts,
            "kept": kept,
        }

    def restore(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """The blocks, byte for byte."""
        stored = weight.storage()
        rows, columns = weight.shape
        bits = bags.stored_bits(AFFINE[_type(weight)].bits)
        codes = bags.codes_of(stored["table"], bits, rows, columns)
        return {"blocks": _blocks(codes, stored["kept"], _type(weight))}

    def blocks_of_rows(self, weight: PackedWeight, ids: Tensor) -> Tensor:
        """The blocks of some rows, uint8 `[len(ids), bytes per row]`."""
        stored = weight.storage()
        rows, columns = weight.shape
        bits = bags.stored_bits(AFFINE[_type(weight)].bits)
        codes = bags.codes_of_rows(stored["table"], bits, rows, columns, ids)
        return _blocks(codes, stored["kept"][ids], _type(weight))

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """See `Kernel.linear`."""
        if x.dtype == torch.float64 or (x.requires_grad and torch.is_grad_enabled()):
            return linear_through(weight, x)
        own: dict[str, Any] = weight._parameters
        name = _type(weight)
        compiling = torch.compiler.is_compiling()
        run: Any = torch.ops.quantload_gguf.bags_linear if compiling else bag_products.bags_linear
        found: Tensor = run(
            x.reshape(-1, x.shape[-1]),
            own["table"],
            _halves(own["outer"]),
            _halves(own["inner"]),
            _halves(own["outer_added"]),
            _halves(own["inner_added"]),
            own["starts"],
            bags.stored_bits(AFFINE[name].bits),
            LEVELS[name].middle,
            weight.shape[0],
        )
        return found.view(*x.shape[:-1], weight.shape[0])


def _hidden(part: Tensor) -> Tensor:
    """Halves as whole numbers: floats among the parameters would be taken for the model's dtype."""
    return part.view(torch.int16) if part.dtype == torch.float16 else part


def _halves(part: Tensor | None) -> Tensor | None:
    return part.view(torch.float16) if part is not None and part.dtype == torch.int16 else part


def _type(weight: PackedWeight) -> str:
    name: Any = weight.kernel_params()["ggml_type"]
    return str(name)


def _filled(codes: Tensor, rows: int, middle: int) -> Tensor:
    """Codes of the last block with as many rows as the others."""
    if len(codes) == rows:
        return codes
    return torch.cat([codes, codes.new_full((rows - len(codes), codes.shape[1]), middle)])


def _blocks(codes: Tensor, kept: Tensor, name: str) -> Tensor:
    """Blocks from codes `[rows, columns]` and the kept scales `[rows, bytes]`."""
    affine, kind = AFFINE[name], ggml_type(name)
    flat = codes.reshape(-1, kind.elements)
    blocks = codes.new_empty(flat.shape[0], kind.nbytes)
    scales, start = kept.reshape(flat.shape[0], -1), 0
    for a, b in affine.scales:
        blocks[:, a:b] = scales[:, start : start + b - a]
        start += b - a
    affine.join(blocks, flat)
    return blocks.view(codes.shape[0], -1)
