"""Few rows on the CPU: products with the codebooks are made once and looked up.

A row of `x`, cut into groups of `in_group`, has only `entries` different products
with each codebook; a weight of 2x8 bits with 4096 inputs then costs one addition
per code in place of eight multiplications, and no weight is decoded.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from quantload.plugin import Kernel, KernelSpec, PackedWeight, Verdict
from quantload.weights.autograd import linear_through
from quantload_aqlm.weights import AqlmWeight

FEW_LOOKUPS = 16
"""Lookups for each code up to which they win; measured by benchmarks/aqlm_cpu.py."""

ENTRY = 2
"""What an entry of a table costs to make, in lookups; likewise."""


def pays(rows: int, codebooks: int, entries: int, out_features: int) -> bool:
    """Whether looking up is faster than decoding, for so many rows of input.

    A row makes `entries` products where it then looks up `out_features` of them.
    """
    return rows * codebooks * (1 + ENTRY * entries / out_features) <= FEW_LOOKUPS


class LookupKernel(Kernel):
    """Lookup for few rows, dequantize and multiply for many."""

    name = "aqlm-lookup"
    priority = 10

    def supports(self, spec: KernelSpec) -> Verdict:
        """Small codebooks with groups of one row: the table must stay small."""
        if spec.layout != AqlmWeight.layout:
            return Verdict.no(f"runs aqlm weights, not {spec.layout or 'this layout'}")
        if spec.params["entries"] > 4096:
            return Verdict.no("codebooks of more than 4096 entries make tables larger than weights")
        if spec.params["out_group"] != 1:
            return Verdict.no("groups of several rows are decoded")
        return Verdict.yes()

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """See `lookup_linear`; a gradient or many rows take the way of the reference."""
        own = cast("AqlmWeight", weight)
        rows = x.numel() // max(1, x.shape[-1])
        many = rows * own.codebooks.shape[0] > FEW_LOOKUPS
        if many or not rows or (torch.is_grad_enabled() and x.requires_grad):
            return linear_through(weight, x)
        return lookup_linear(own.codes, own.codebooks, own.scales, x)


def lookup_linear(codes: Tensor, codebooks: Tensor, scales: Tensor, x: Tensor) -> Tensor:
    """`x @ W.T` in `x.dtype`, summed in float32, through tables of products.

    Args:
        codes: `[out, in / in_group, codebooks]`.
        codebooks: `[codebooks, entries, 1, in_group]`.
        scales: `[out, 1, 1, 1]`.
        x: `[..., in]`.
    """
    count, entries, _, in_group = codebooks.shape
    out, columns, _ = codes.shape
    books = codebooks.float().reshape(count * entries, in_group)
    groups = x.float().reshape(-1, columns, in_group)
    index = codes.reshape(out, -1).int() & (entries - 1)
    firsts = torch.arange(columns * count, dtype=torch.int32, device=x.device) * entries
    index = index + firsts
    result = [
        torch.nn.functional.embedding_bag(index, (row @ books.T).reshape(-1, 1), mode="sum")
        for row in groups
    ]
    product = torch.stack(result).squeeze(-1) * scales.reshape(-1).float()
    return product.to(x.dtype).view(*x.shape[:-1], out)
