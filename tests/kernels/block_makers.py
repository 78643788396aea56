"""Weights in ggml blocks and weights made of codebook entries, at random."""

from __future__ import annotations

import torch
from makers import relative_error


def ggml_weight(kind, rows, columns, dtype=torch.float16, seed=0):
    """A `GgufWeight` of random codes and small scales."""
    from quantload_gguf import GgufWeight, ggml_type

    block = ggml_type(kind)
    generator = torch.Generator().manual_seed(seed)
    count = rows * columns // block.elements
    blocks = torch.randint(0, 256, (count, block.nbytes), dtype=torch.uint8, generator=generator)
    for offset, fields, _ in block.wide:
        scales = torch.rand(count, fields, generator=generator) * 0.01 + 0.001
        blocks[:, offset : offset + 2 * fields] = scales.half().view(torch.uint8)
    return GgufWeight.from_blocks(blocks.view(rows, -1), kind, dtype=dtype)


def aqlm_weight(
    count, bits, rows, columns, dtype=torch.float16, books=None, out_group=1, in_group=8, seed=0
):
    """An `AqlmWeight` of random codes; `books` is the dtype of the codebooks."""
    from quantload_aqlm import AqlmWeight

    generator = torch.Generator().manual_seed(seed)
    shape = (rows // out_group, columns // in_group, count)
    half = 1 << (bits - 1)
    codes = torch.randint(-half, half, shape, generator=generator)
    entries = torch.randn(count, 1 << bits, out_group, in_group, generator=generator)
    scales = torch.rand(shape[0], 1, 1, 1, generator=generator) * 0.1 + 0.05
    stored = books or dtype
    kind = torch.int8 if bits <= 8 else torch.int16
    return AqlmWeight(codes.to(kind), entries.to(stored), scales.to(stored), dtype)


def blocks_of(weight):
    """A `GgufWeight` in the kernels' arrangement as `blocks.launch` takes it."""
    from quantload_gguf.kernels.triton import FORMS
    from quantload_kernels_triton.blocks.launch import Blocks

    parts = (weight._parameters[name] for name in ("low", "high", "scales", "steps", "minima"))
    return Blocks(*parts, FORMS[weight.ggml_type.name], *weight.shape)


def coded_of(weight):
    """An `AqlmWeight` as `codebooks.launch` takes it."""
    from quantload_kernels_triton.codebooks.launch import Coded

    return Coded(weight.codes, weight.codebooks, weight.scales)


def sample(rows, weight, dtype=None, seed=1):
    """Activations `[rows, in_features]`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, weight.shape[1], generator=generator)
    return x.to(device=weight.device, dtype=dtype or weight.dtype)


def product_error(y, x, matrix):
    """Relative error of a product."""
    return relative_error(y, x.double() @ matrix.double().T)
