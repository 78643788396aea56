"""Sums of codes weighted by an input, by the embedding bags that torch ships for x86.

`quantized::embedding_bag_{byte,4bit,2bit}_rowwise_offsets` add up rows of a table, each
times a factor. With the columns of a weight for rows, and the entries of `x` for factors,
that is a product: codes are read as they are stored, 2, 4 or 8 bits each, and summed in
float32 whatever the dtype of `x`. One bag is one group of columns, which has a scale of
its own. The operator is FBGEMM's; of each table row the last bytes are a scale and an
offset, which here are 1 and minus the code that stands for the middle.

Source of a table's layout: `aten/src/ATen/native/quantized/cpu/qembeddingbag.cpp`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, lru_cache

import torch
from torch import Tensor

WIDTH = 256
"""Rows of a weight that stand side by side in a table row: a block of them fits a cache."""

_ELEMENTS = 3 << 19
"""Decoded at once: what fits the caches, and is worth waking the threads for."""

_TAIL = {2: 4, 4: 4, 8: 8}
"""Bytes of the scale and offset at the end of a table row."""


def stored_bits(bits: int) -> int:
    """Bits that a code of so many takes in a table."""
    return 2 if bits <= 2 else 4 if bits <= 4 else 8


def width(rows: int) -> int:
    """Rows of a block for a weight of so many rows: about `WIDTH`, a multiple of 4."""
    blocks = -(-rows // WIDTH)
    return -(-rows // (4 * blocks)) * 4


def pack(codes: Tensor, bits: int, middle: int) -> Tensor:
    """Codes uint8 `[rows, columns]` as a table `[blocks * columns, bytes]`.

    Of a block of rows, the first half (with 2 bits, the first quarter) is in the low bits.

    Args:
        codes: below `2 ** bits`.
        bits: of a code in the table: 2, 4 or 8.
        middle: the code that counts as 0; also fills what is left of the last block.
    """
    rows, columns = codes.shape
    wide = width(rows)
    blocks, inner = -(-rows // wide), wide * bits // 8
    table = codes.new_empty(blocks, columns, inner + _TAIL[bits])
    dtype = torch.float32 if bits == 8 else torch.float16
    tail = torch.tensor([1.0, -float(middle)], dtype=dtype, device=codes.device)
    table[..., inner:] = tail.view(torch.uint8)
    for block in range(blocks):
        part = codes[block * wide : (block + 1) * wide]
        if len(part) < wide:
            part = torch.cat([part, part.new_full((wide - len(part), columns), middle)])
        turned = part.T.contiguous().view(columns, 8 // bits, inner)
        packed = turned[:, 0]
        for place in range(1, 8 // bits):
            packed = packed | (turned[:, place] << (bits * place))
        table[block, :, :inner] = packed
    return table.view(blocks * columns, -1)


def turned_codes(table: Tensor, bits: int, blocks: slice, columns: int) -> Tensor:
    """The codes of some blocks, uint8 `[blocks, columns, width]`."""
    inner = table.shape[1] - _TAIL[bits]
    packed = table.view(-1, columns, table.shape[1])[blocks, :, :inner]
    if bits == 8:
        return packed
    parts = [(packed >> (bits * place)) & ((1 << bits) - 1) for place in range(8 // bits)]
    return torch.cat(parts, dim=2)


def codes_of(table: Tensor, bits: int, rows: int, columns: int) -> Tensor:
    """The inverse of `pack`: uint8 `[rows, columns]`."""
    found = table.new_empty(rows, columns)
    wide = width(rows)
    for block, start in enumerate(range(0, rows, wide)):
        turned = turned_codes(table, bits, slice(block, block + 1), columns)[0]
        part = found[start : start + wide]
        part.copy_(turned.T[: len(part)])
    return found


def codes_of_rows(table: Tensor, bits: int, rows: int, columns: int, ids: Tensor) -> Tensor:
    """The codes of some rows of a weight of `rows`, uint8 `[len(ids), columns]`."""
    wide = width(rows)
    place, inner = ids % wide, wide * bits // 8
    packed = table.view(-1, columns, table.shape[1])[ids // wide, :, place % inner]
    return (packed >> (bits * (place // inner))[:, None].to(torch.uint8)) & ((1 << bits) - 1)


def spread(values: Tensor, bits: int) -> Tensor:
    """Values per row and group, `[rows, groups]`, as sums lie: `[blocks, groups, width]`."""
    rows, groups = values.shape
    wide = width(rows)
    blocks, each = -(-rows // wide), 8 // bits
    padded = values.new_zeros(blocks * wide, groups)
    padded[:rows] = values
    turned = padded.view(blocks, each, wide // each, groups).permute(0, 3, 2, 1)
    return turned.reshape(blocks, groups, wide).contiguous()


def in_order(sums: Tensor, bits: int, rows: int) -> Tensor:
    """Sums over all groups, `[blocks, m, width]`, as a product `[m, rows]`."""
    blocks, count, wide = sums.shape
    each = 8 // bits
    ordered = sums.view(blocks, count, wide // each, each).permute(1, 0, 3, 2)
    return ordered.reshape(count, -1)[:, :rows]


def sums(x: Tensor, table: Tensor, bits: int, starts: Tensor) -> Tensor:
    """For each group `g` of columns, the sum of `x[m, i] * (code[n, i] - middle)`.

    Args:
        x: `[m, columns]`, any float.
        table: see `pack`.
        bits: of a code in it.
        starts: int32 `[groups]`, the first column of each group; 0 is the first.

    Returns:
        float32 `[blocks, m, groups, width]`; of each block the rows are in the order in
        which a table has them, which `in_order` undoes.
    """
    count, columns = x.shape
    blocks = table.shape[0] // columns
    operator = _operator(bits)
    firsts = _firsts(blocks * count, columns)
    found: Tensor = operator(
        table,
        _indices(blocks, columns, count),
        (firsts + starts).view(-1),
        False,
        0,
        False,
        x.to(torch.float32).reshape(-1).repeat(blocks),
    )
    return found.view(blocks, count, len(starts), -1)


def decoded(
    table: Tensor,
    bits: int,
    shape: tuple[int, int],
    dtype: torch.dtype,
    scaling: Callable[[slice], tuple[Tensor, Tensor]],
) -> Iterator[tuple[slice, Tensor]]:
    """Some rows of a weight at a time, and the transpose of them, `[columns, n]`.

    A tensor is overwritten by the next.

    Args:
        table: see `pack`.
        bits: of a code in it.
        shape: of the weight.
        dtype: of the numbers.
        scaling: numbers of blocks -> scale and offset of their codes, float32 (float64 for
            a `dtype` of it) `[blocks, runs, width]` in the order of `spread`, for as many
            runs of equal length as the columns have.
    """
    rows, columns = shape
    height = width(rows)
    blocks = table.shape[0] // columns
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    step = min(blocks, max(1, _ELEMENTS // (columns * height)))
    space = table.new_empty(step * columns * height, dtype=wide)
    halfway = table.new_empty(0 if dtype == wide else len(space), dtype=dtype)
    target = table.new_empty((columns, step * height), dtype=dtype)
    for start in range(0, blocks, step):
        part = slice(start, min(start + step, blocks))
        count = part.stop - start
        numbers = space[: count * columns * height].view(count, columns, height)
        numbers.copy_(turned_codes(table, bits, part, columns))
        scale, offset = (_in_rows(each, bits)[:, :, None] for each in scaling(part))
        runs = numbers.view(count, scale.shape[1], -1, height)
        torch.addcmul(offset, runs, scale, out=runs)
        found = target[:, : count * height]
        # Rounding and moving in one go would take torch many times as long.
        rounded = numbers
        if dtype != wide:
            rounded = halfway[: numbers.numel()].view(numbers.shape).copy_(numbers)
        found.view(columns, count, height).copy_(rounded.transpose(0, 1))
        first, last = start * height, min(part.stop * height, rows)
        yield slice(first, last), found[:, : last - first]


def _in_rows(values: Tensor, bits: int) -> Tensor:
    """`[blocks, groups, width]` in the order of the rows."""
    if bits == 8:
        return values
    split = values.view(*values.shape[:2], -1, 8 // bits)
    return split.transpose(2, 3).reshape(values.shape)


def group_sums(x: Tensor, starts: Tensor, size: int) -> Tensor:
    """The sum of `x` over each group of columns, float32 `[m, groups]`.

    Args:
        x: `[m, columns]`, any float.
        starts: see `sums`.
        size: columns of every group; 0 where they are not alike.
    """
    count, columns = x.shape
    if size:
        return x.to(torch.float32).view(count, -1, size).sum(2)
    ends = torch.cat([starts[1:], starts.new_tensor([columns])]).long()
    total = torch.nn.functional.pad(x.double().cumsum(1), (1, 0))
    return (total[:, ends] - total[:, starts.long()]).float()


def _operator(bits: int) -> torch._ops.OpOverload:
    name = "byte" if bits == 8 else f"{bits}bit"
    packet = getattr(torch.ops.quantized, f"embedding_bag_{name}_rowwise_offsets")
    overload: torch._ops.OpOverload = packet.default
    return overload


def _indices(blocks: int, columns: int, count: int) -> Tensor:
    """Every table row of each block, once for each row of `x`."""
    every = _all_rows(blocks * columns)
    if count == 1:
        return every
    return every.view(blocks, 1, columns).expand(-1, count, -1).reshape(-1)


@lru_cache(maxsize=16)
def _all_rows(count: int) -> Tensor:
    """Kept for as many shapes as models have: for each of 256 codes it takes 4 bytes."""
    with torch.inference_mode(mode=False):
        return torch.arange(count, dtype=torch.int32, device="cpu")


@lru_cache(maxsize=64)
def _firsts(bags: int, columns: int) -> Tensor:
    with torch.inference_mode(mode=False):
        return (torch.arange(bags, dtype=torch.int32, device="cpu") * columns)[:, None]


@cache
def available() -> bool:
    """Whether this torch has the operators, fast ones, and they do what is said above."""
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    with torch.inference_mode(mode=False), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(2, 24, generator=generator)
        starts = torch.tensor([0, 16], dtype=torch.int32, device="cpu")
        for bits in (2, 4, 8):
            middle = 1 << (bits - 1)
            codes = torch.randint(0, 1 << bits, (20, 24), dtype=torch.uint8, generator=generator)
            try:
                found = sums(x, pack(codes, bits, middle), bits, starts)
            except (AttributeError, RuntimeError):
                return False
            numbers = codes.float() - middle
            for group, part in enumerate((slice(0, 16), slice(16, 24))):
                expected = x[:, part] @ numbers[:, part].T
                given = in_order(found[:, :, group], bits, 20)
                if not torch.allclose(given, expected, rtol=1e-4, atol=1e-3):
                    return False
    return True
