"""The quant state of a 4-bit weight: JSON in the bytes of a uint8 tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantload.plugin import CheckpointError
from quantload_bitsandbytes.codebooks import QUANT_TYPES
from quantload_bitsandbytes.config import BLOCK_SIZES

PREFIX = "weight.quant_state.bitsandbytes__"
KEYS = {f"{PREFIX}{quant_type}": quant_type for quant_type in QUANT_TYPES}


@dataclass(frozen=True)
class QuantState:
    """What the file says of a 4-bit weight beside its tensors.

    Attributes:
        quant_type: "nf4" or "fp4".
        block_size: elements that share an absmax.
        dtype: name of the dtype the weight had ("bfloat16").
        shape: `(out_features, in_features)`; None where the file does not say.
        nested_block_size: absmax codes that share a nested absmax; None without
            double quantization.
        nested_offset: what was taken off every absmax.
    """

    quant_type: str
    block_size: int
    dtype: str
    shape: tuple[int, ...] | None
    nested_block_size: int | None = None
    nested_offset: float = 0.0

    @property
    def nested(self) -> bool:
        """Whether the absmax are quantized."""
        return self.nested_block_size is not None

    @property
    def key(self) -> str:
        """Name of the tensor that holds this."""
        return PREFIX + self.quant_type

    def to_bytes(self) -> bytes:
        """As the library writes it."""
        fields: dict[str, Any] = {
            "quant_type": self.quant_type,
            "blocksize": self.block_size,
            "dtype": self.dtype,
            "shape": None if self.shape is None else list(self.shape),
        }
        if self.nested:
            fields["nested_blocksize"] = self.nested_block_size
            fields["nested_dtype"] = "float32"
            fields["nested_offset"] = self.nested_offset
        return json.dumps(fields).encode("utf-8")

    @classmethod
    def from_tensor(cls, name: str, key: str, tensor: Tensor) -> tuple[QuantState, bytes]:
        """Read the tensor `key` of module `name`.

        Returns:
            The state, and the bytes as they are.

        Raises:
            CheckpointError: it is not what a quant state should be.
        """
        where = f"{name}.{key}"
        if tensor.dtype != torch.uint8 or tensor.ndim != 1:
            raise CheckpointError(
                f"{where}: expected uint8 [n] with JSON text in it, found {tensor.dtype} "
                f"{list(tensor.shape)}"
            )
        raw = bytes(tensor.cpu().tolist())
        try:
            fields = json.loads(raw.decode("utf-8"))
        except ValueError as error:
            raise CheckpointError(
                f"{where}: expected JSON text, found bytes that are none ({error})"
            ) from error
        if not isinstance(fields, dict):
            raise CheckpointError(f"{where}: expected a JSON object, found {fields!r}")
        return cls._from_fields(where, KEYS[key], fields), raw

    @classmethod
    def _from_fields(cls, where: str, quant_type: str, fields: Mapping[str, Any]) -> QuantState:
        shape = _field(where, fields, "shape", "two positive numbers or null", _is_shape)
        nested = "nested_blocksize" in fields
        return cls(
            _field(where, fields, "quant_type", repr(quant_type), lambda v: v == quant_type),
            _field(where, fields, "blocksize", f"one of {BLOCK_SIZES}", BLOCK_SIZES.__contains__),
            _field(where, fields, "dtype", "the name of a float dtype", _is_dtype),
            None if shape is None else tuple(shape),
            _field(where, fields, "nested_blocksize", "a positive number", _is_positive)
            if nested
            else None,
            float(_field(where, fields, "nested_offset", "a finite number", _is_finite))
            if nested
            else 0.0,
        )


def _field(where: str, fields: Mapping[str, Any], key: str, expected: str, good: Any) -> Any:
    value = fields.get(key)
    try:
        fits = bool(good(value))
    except TypeError:  # an unhashable value is none of the allowed ones
        fits = False
    if not fits:
        found = repr(value) if key in fields else "no such field"
        raise CheckpointError(f"{where}: {key}: expected {expected}, found {found}")
    return value


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_finite(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < float("inf")
    )


def _is_shape(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and len(value) == 2 and all(map(_is_positive, value))


def _is_dtype(value: object) -> bool:
    found = getattr(torch, value, None) if isinstance(value, str) else None
    return isinstance(found, torch.dtype) and found.is_floating_point
