"""The tables of bitsandbytes: what each code stands for.

All are bit-equal to the tensors of the library (checked against 0.50.2). NF4 comes
from QLoRA (arXiv:2305.14314), the dynamic 8-bit map from arXiv:2110.02861.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Quantiles of the normal distribution, in order."""

FP4_TWELFTHS = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
"""Magnitudes of FP4 codes 0 to 7 before they are divided by 12; codes 8 to 15 are the negatives."""

QUANT_TYPES = ("nf4", "fp4")


@functools.cache
def codebook(quant_type: str) -> Tensor:
    """The 16 values of a 4-bit type, float32 `[16]` on the CPU. Not to be changed.

    Args:
        quant_type: "nf4" or "fp4".
    """
    with torch.inference_mode(mode=False):
        if quant_type == "nf4":
            return torch.tensor(NF4, dtype=torch.float32, device="cpu")
        if quant_type != "fp4":
            raise ValueError(f"quant_type: found {quant_type!r}, expected one of {QUANT_TYPES}")
        half = torch.tensor(FP4_TWELFTHS, dtype=torch.float32, device="cpu")
        # Code 8 is written as +0: that is what the library's table holds.
        return torch.cat([half, 0.0 - half]) / 12.0


@functools.cache
def dynamic_map() -> Tensor:
    """The signed dynamic 8-bit map in rising order, float32 `[256]` on the CPU.

    Seven decades below 1; the decade with exponent -6 + k holds 2^k values, which are
    the midpoints of as many equal parts of [0.1, 1]. With both signs, 0 and 1 these
    are 256.
    """
    with torch.inference_mode(mode=False):
        values = [0.0, 1.0]
        for k in range(7):
            edges = torch.linspace(0.1, 1, 2**k + 1, dtype=torch.float32, device="cpu")
            midpoints = (edges[:-1] + edges[1:]) / 2.0
            for sign in (1, -1):
                values += (sign * 10 ** (k - 6) * midpoints).tolist()
        return torch.tensor(sorted(values), dtype=torch.float32, device="cpu")
