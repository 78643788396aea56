"""The dtypes of the safetensors format: how wide each is, and what torch calls it.

Source: the `Dtype` enum of the safetensors crate, version 0.8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantload.errors import CheckpointError

if TYPE_CHECKING:
    import torch

BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one element, for every dtype the format has."""

_TORCH = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn_x2",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
_NAMES = {torch_name: name for name, torch_name in _TORCH.items()}

PER_ITEM = {"F4": 2}
"""Elements that share one item of the torch dtype, where that is not one."""


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a safetensors dtype.

    Raises:
        CheckpointError: torch, or the installed torch, has no such dtype.
    """
    import torch

    found = getattr(torch, _TORCH.get(name, ""), None)
    if not isinstance(found, torch.dtype):
        raise CheckpointError(
            f"torch {torch.__version__} has no dtype for {name!r}; "
            f"read the bytes with read_raw() and decode them yourself"
        )
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """The safetensors name of a torch dtype.

    Raises:
        CheckpointError: the format has none (complex128, quantized and sub-byte types).
    """
    name = _NAMES.get(str(dtype).removeprefix("torch."))
    if name is None:
        raise CheckpointError(
            f"safetensors has no dtype for {dtype}; it has {', '.join(sorted(_NAMES))}"
        )
    return name
