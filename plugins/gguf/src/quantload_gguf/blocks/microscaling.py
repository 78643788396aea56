"""MXFP4 and NVFP4: four-bit floats with eight-bit floats as scales.

Source: `dequantize_row_mxfp4` and `dequantize_row_nvfp4` in ggml-quants.c; OCP
Microscaling Formats 1.0. The table holds twice the E2M1 values and the scales are
halved, as ggml has them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantload_gguf.blocks.fields import fields, on_device, table


def doubled_e2m1() -> Tensor:
    """Twice the value of each four-bit code, float32 `[16]`; code 8 is zero, not minus zero."""
    positive = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]
    return table([*positive, *(0.0 - v for v in positive)])


def halved_e8m0() -> Tensor:
    """`2 ** (e - 128)` of each byte, float32 `[256]`; the first two are denormal."""
    return table([2.0 ** (e - 128) for e in range(256)])


def halved_ue4m3() -> Tensor:
    """Half of each unsigned E4M3 byte, float32 `[256]`; 0x7F counts as zero."""
    values = []
    for code in range(256):
        exponent, mantissa = (code >> 3) & 15, code & 7
        normal = (8 + mantissa) * 2.0 ** (exponent - 11)
        values.append(normal if exponent else mantissa * 2.0**-10)
    values[0x7F] = 0.0
    return table(values)


def mxfp4(blocks: Tensor) -> Tensor:
    """32 elements: the scale, then the nibbles as in Q4_0."""
    scale = on_device(halved_e8m0, blocks.device)[blocks[:, :1].to(torch.int64)]
    codes = fields(blocks[:, 1:], 4, 2).flatten(1)
    return on_device(doubled_e2m1, blocks.device)[codes.to(torch.int64)].mul_(scale)


def nvfp4(blocks: Tensor) -> Tensor:
    """Four groups of 16, each with a scale; eight bytes of nibbles per group."""
    scale = on_device(halved_ue4m3, blocks.device)[blocks[:, :4].to(torch.int64)]
    codes = fields(blocks[:, 4:].view(-1, 4, 8), 4, 2).flatten(2)
    values = on_device(doubled_e2m1, blocks.device)[codes.to(torch.int64)]
    return values.mul_(scale.unsqueeze(-1)).flatten(1)
