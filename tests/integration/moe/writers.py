"""Layers as other programs write them, made one number at a time from what is known of the formats.

They share nothing with the code under test. Each takes a float matrix and gives the tensors
of the layer, by what follows the layer's name, and the float32 matrix that these stand for.

Sources: the packers of AutoGPTQ 0.7, GPTQModel 7, AutoAWQ 0.2 and bitsandbytes 0.50.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

Layer = tuple[dict[str, Tensor], Tensor]
Writer = Callable[[Tensor], Layer]

NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


def words(fields: list[int], bits: int) -> list[int]:
    """A little-endian stream of fields in 32-bit words; what is left of the last one is dropped."""
    number = sum(field << (bits * place) for place, field in enumerate(fields))
    count = len(fields) * bits // 32
    return [signed((number >> (32 * place)) % (1 << 32)) for place in range(count)]


def gptq(
    matrix: Tensor,
    *,
    bits: int = 4,
    group: int = 32,
    act_order: int | None = None,
    symmetric: bool = True,
    zero_bias: bool = False,
) -> Layer:
    """Version 1 of the layout: zero-points are stored less one.

    Args:
        act_order: seed of the order in which the columns were quantized; None for that of
            the matrix.
        zero_bias: with the bias of zeros that AutoGPTQ gives to layers that have none.
    """
    rows, columns = matrix.shape
    order = list(range(columns))
    if act_order is not None:
        order = torch.randperm(columns, generator=torch.Generator().manual_seed(act_order)).tolist()
    g_idx = [0] * columns
    for place, column in enumerate(order):
        g_idx[column] = place // group
    top = (1 << bits) - 1
    scales, zeros = [], []
    for number in range(-(-columns // group)):
        own = matrix[:, [c for c in range(columns) if g_idx[c] == number]].float()
        low, high = own.amin(1).clamp(max=0), own.amax(1).clamp(min=0)
        if symmetric:
            scale = torch.maximum(high, -low) * 2 / top
            zero = torch.full_like(scale, 1 << (bits - 1))
        else:
            scale = (high - low) / top
            zero = (-low / scale).round().clamp(1, top)
        scale = scale.half()
        scales.append(scale)
        zeros.append(zero.int())
    index = torch.tensor(g_idx)
    scale_of = torch.stack(scales)[index].t().float()
    zero_of = torch.stack(zeros)[index].t()
    codes = ((matrix.float() / scale_of).round() + zero_of).clamp(0, top).int()
    tensors = {
        "qweight": torch.tensor(
            [words(line, bits) for line in codes.tolist()], dtype=torch.int32
        ).t(),
        "qzeros": torch.tensor(
            [words([z - 1 for z in line.tolist()], bits) for line in zeros], dtype=torch.int32
        ),
        "scales": torch.stack(scales),
        "g_idx": index.int(),
    }
    if zero_bias:
        tensors["bias"] = torch.zeros(rows, dtype=torch.float16)
    return tensors, (codes - zero_of).float() * scale_of


def awq(matrix: Tensor, *, group: int = 32) -> Layer:
    """Version GEMM: packed along the rows, nibbles interleaved, zero-points as they are."""
    rows, columns = matrix.shape
    parts = matrix.float().view(rows, columns // group, group)
    low, high = parts.amin(2), parts.amax(2)
    scales = ((high - low) / 15).half()
    zeros = (-low / scales.float()).round().clamp(0, 15).int()
    scale_of = scales.float().repeat_interleave(group, 1)
    zero_of = zeros.repeat_interleave(group, 1)
    codes = ((matrix.float() / scale_of).round() + zero_of).clamp(0, 15).int()

    def interleaved(lines: Tensor) -> Tensor:
        packed = []
        for line in lines.tolist():
            fields = [line[8 * (n // 8) + NIBBLES[n % 8]] for n in range(len(line))]
            packed.append(words(fields, 4))
        return torch.tensor(packed, dtype=torch.int32)

    tensors = {
        "qweight": interleaved(codes.t()),
        "qzeros": interleaved(zeros.t()),
        "scales": scales.t(),
    }
    return tensors, (codes - zero_of).float() * scale_of


def nf4(matrix: Tensor, *, nested: bool = True, dtype: str = "bfloat16") -> Layer:
    """`Linear4bit`, with its statistics quantized again where `nested`."""
    flat = matrix.float().flatten()
    blocks = flat.view(-1, 64)
    absmax = blocks.abs().amax(1)
    table = torch.tensor(NF4)
    codes = (blocks / absmax[:, None])[..., None].sub(table).abs().argmin(-1).flatten()
    pairs = codes.view(-1, 2)
    tensors = {
        "weight": (pairs[:, 0] * 16 + pairs[:, 1]).to(torch.uint8)[:, None],
        "weight.quant_map": table,
    }
    state: dict[str, object] = {
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": dtype,
        "shape": list(matrix.shape),
    }
    if nested:
        offset = absmax.mean()
        positions = torch.linspace(-1, 1, 256)
        groups = (absmax - offset).split(256)
        tops = torch.stack([group.abs().amax() for group in groups])
        numbers = [
            (group / top)[:, None].sub(positions).abs().argmin(1)
            for group, top in zip(groups, tops, strict=True)
        ]
        tensors["weight.absmax"] = torch.cat(numbers).to(torch.uint8)
        tensors["weight.nested_absmax"] = tops
        tensors["weight.nested_quant_map"] = positions
        absmax = torch.cat([positions[own] * top for own, top in zip(numbers, tops, strict=True)])
        absmax = absmax + offset
        state |= {
            "nested_blocksize": 256,
            "nested_dtype": "float32",
            "nested_offset": offset.item(),
        }
    else:
        tensors["weight.absmax"] = absmax
    text = list(json.dumps(state).encode())
    tensors["weight.quant_state.bitsandbytes__nf4"] = torch.tensor(text, dtype=torch.uint8)
    return tensors, (table[codes].view(-1, 64) * absmax[:, None]).view(matrix.shape)


def int8(matrix: Tensor) -> Layer:
    """`Linear8bitLt`: a scale per row, and a mark for the order of the rows."""
    top = matrix.float().abs().amax(1)
    codes = (matrix.float() * (127 / top)[:, None]).round().to(torch.int8)
    tensors = {
        "weight": codes,
        "SCB": top,
        "weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    return tensors, codes.float() * (top / 127)[:, None]
