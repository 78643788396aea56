"""Random affine weights for the tests of the kernels."""

from __future__ import annotations

import torch

from quantload.weights.affine import AffineWeight

BITS = (2, 3, 4, 8)


def make_weight(
    bits,
    rows,
    columns,
    group_size,
    *,
    symmetric=False,
    stored_zeros=True,
    offsets=None,
    act_order=None,
    scale_dtype=torch.float16,
    dtype=torch.float16,
    seed=0,
):
    """`act_order` is None, "even" (groups of one size), "uneven" or "wide" (runs of 64).

    `offsets` is a dtype.
    """
    generator = torch.Generator().manual_seed(seed)

    def integers(high, *size):
        return torch.randint(0, high, size, generator=generator)

    groups = -(-columns // group_size)
    codes = integers(1 << bits, rows, columns).to(torch.uint8)
    scales = torch.rand(rows, groups, generator=generator) * 0.02 + 0.01
    zeros = integers((1 << bits) + 1, rows, groups)
    if symmetric:
        zeros = torch.full_like(zeros, 1 << (bits - 1)) if stored_zeros else None
    g_idx = None
    if act_order is not None:
        g_idx = torch.arange(columns) // group_size
        if act_order != "even":
            run = {"uneven": 32, "wide": 64}[act_order]
            g_idx = torch.repeat_interleave(torch.arange(columns // run) ** 2 % groups, run)
        g_idx = g_idx[torch.randperm(columns, generator=generator)].to(torch.int32)
    added = None
    if offsets is not None:
        places = torch.rand(rows, groups, generator=generator) * (1 << bits)
        added, zeros = (-scales * places).to(offsets), None
    return AffineWeight.from_codes(
        codes,
        scales.to(scale_dtype),
        zeros,
        offsets=added,
        bits=bits,
        group_size=group_size,
        dtype=dtype,
        g_idx=g_idx,
    )


def activations(rows, weight, dtype=None, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, weight.shape[1], generator=generator)
    return x.to(dtype or weight.dtype).to(weight.device)


def relative_error(got, wanted):
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())
