"""From a place in a file to a tensor: mapped, copied, staged, or on its way to a device."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from quantload.checkpoint.paths import show
from quantload.checkpoint.tensorinfo import needed_alignment
from quantload.errors import CheckpointError

if TYPE_CHECKING:
    from quantload.checkpoint.rawfile import RawFile
    from quantload.checkpoint.tensorinfo import TensorInfo

STAGING_BYTES = 32 * 1024 * 1024
"""How much of a tensor is in host memory at once on its way to a device."""


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive bytes of a file that are a tensor of this dtype and shape."""

    label: str
    raw: RawFile
    offset: int
    nbytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def part_of(info: TensorInfo, raw: RawFile, rows: slice | None) -> Part:
    """A tensor, or some rows of it.

    Raises:
        CheckpointError: torch lacks the dtype, or `rows` does not fit.
    """
    label = f"{info.file}: tensor {show(info.name)}"
    dtype, shape = info.torch_dtype, info.torch_shape
    if sys.byteorder != "little" and dtype.itemsize > 1:
        raise CheckpointError(f"{label}: files are little endian and this machine is not")
    if rows is None:
        return Part(label, raw, info.offset, info.nbytes, dtype, shape)
    if not shape or rows.step not in (None, 1):
        raise CheckpointError(
            f"{label}: rows are a slice of the first dimension with step 1; found {rows} for "
            f"shape {list(shape)}"
        )
    start, stop, _ = rows.indices(shape[0])
    count = max(stop - start, 0)
    each = info.nbytes // shape[0] if shape[0] else 0
    return Part(label, raw, info.offset + start * each, count * each, dtype, (count, *shape[1:]))


def raw_part(info: TensorInfo, raw: RawFile) -> Part:
    """The bytes of a tensor as what they are."""
    label = f"{info.file}: tensor {show(info.name)}"
    return Part(label, raw, info.offset, info.nbytes, torch.uint8, (info.nbytes,))


def read(part: Part, *, mmap: bool) -> torch.Tensor:
    """A CPU tensor that lies in the mapped file where it can, else in fresh memory."""
    if mmap and part.nbytes and part.offset % needed_alignment(part.dtype.itemsize) == 0:
        mapping = part.raw.map()
        if mapping is not None:
            count = part.nbytes // part.dtype.itemsize
            flat = torch.frombuffer(mapping, dtype=part.dtype, count=count, offset=part.offset)
            return flat.view(part.shape)
    return read_into(part, torch.empty(part.nbytes, dtype=torch.uint8))


def read_into(part: Part, buffer: torch.Tensor) -> torch.Tensor:
    """Read into the beginning of `buffer` and give the view that is the tensor."""
    if buffer.device.type != "cpu" or not buffer.is_contiguous():
        raise CheckpointError(
            f"{part.label}: expected a contiguous CPU tensor as buffer, found one on "
            f"{buffer.device} with strides {buffer.stride()}"
        )
    flat = buffer.detach().reshape(-1).view(torch.uint8)
    if flat.nbytes < part.nbytes:
        raise CheckpointError(
            f"{part.label}: expected a buffer of at least {part.nbytes} bytes, found {flat.nbytes}"
        )
    if flat.storage_offset() % part.dtype.itemsize:
        raise CheckpointError(
            f"{part.label}: {part.dtype} needs a buffer that begins at a multiple of "
            f"{part.dtype.itemsize} bytes, found storage offset {flat.storage_offset()}"
        )
    flat = flat[: part.nbytes]
    part.raw.read_into(part.offset, flat.numpy().data)
    return flat.view(part.dtype).view(part.shape)


def read_to_device(part: Part, device: torch.device) -> torch.Tensor:
    """Read through a bounded staging buffer, so that the file never adds up in host memory."""
    out = torch.empty(part.shape, dtype=part.dtype, device=device)
    flat = out.reshape(-1).view(torch.uint8)
    staging = torch.empty(min(part.nbytes, STAGING_BYTES), dtype=torch.uint8)
    for begin in range(0, part.nbytes, STAGING_BYTES):
        chunk = staging[: min(part.nbytes - begin, STAGING_BYTES)]
        part.raw.read_into(part.offset + begin, chunk.numpy().data)
        flat[begin : begin + chunk.nbytes].copy_(chunk)
    return out
