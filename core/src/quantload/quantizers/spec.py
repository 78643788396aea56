"""`ModuleSpec`: everything known of one quantized module before its bytes are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

ModuleKind = Literal["linear", "conv1d", "embedding", "experts", "matrix", "wrapper"]


class TensorHeader(Protocol):
    """What a file says of a tensor without its bytes."""

    @property
    def dtype(self) -> str:
        """Name as safetensors spells it: "BF16", "I32", "U8"."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as stored."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""


@dataclasses.dataclass(frozen=True)
class ModuleSpec:
    """One module that is, or is to be, packed.

    Attributes:
        name: module path, as the model names it.
        kind: what the module is; a `conv1d` weight is stored `[in, out]` by the class, and
            a "matrix" is that of a class of its own, which multiplies with it (a router).
        shape: logical `(out_features, in_features)`; for embeddings `(rows, columns)`.
            None until the loader has seen the module.
        tensors: the checkpoint's tensors of this module, name without the module
            prefix ("qweight", "weight.absmax") -> header. Empty when quantizing on load.
        params: the method's parameters for this module, after per-module overrides.
        dtype: compute dtype; None until the loader has decided.
        transposed: the checkpoint stores the transpose of the logical weight.
        tied_to: name of the module whose weight this one shares.
    """

    name: str
    kind: ModuleKind = "linear"
    shape: tuple[int, ...] | None = None
    tensors: Mapping[str, TensorHeader] = dataclasses.field(default_factory=dict)
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dtype: torch.dtype | None = None
    transposed: bool = False
    tied_to: str | None = None

    def replace(self, **changes: Any) -> ModuleSpec:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class Header:
    """A plain `TensorHeader`, for tensors that are in memory and for tests."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Header:
        """The header a tensor would have in a file."""
        return cls(torch_to_name(tensor.dtype), tuple(tensor.shape), tensor.nbytes)


_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "complex64": "C64",
}


def torch_to_name(dtype: torch.dtype) -> str:
    """The safetensors name of a torch dtype; torch's own where safetensors has none."""
    name = str(dtype).removeprefix("torch.")
    return _NAMES.get(name, name.upper())
