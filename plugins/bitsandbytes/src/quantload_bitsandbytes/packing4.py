"""Checkpoint tensors of a 4-bit layer to a weight and back, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quantload.plugin import CheckpointError, ModuleSpec
from quantload_bitsandbytes.checks import expect, expect_finite
from quantload_bitsandbytes.codebooks import codebook
from quantload_bitsandbytes.state import KEYS, QuantState
from quantload_bitsandbytes.weights import Bnb4Weight

STORAGES = (
    torch.uint8,
    torch.int8,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)


def pack(spec: ModuleSpec, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Bnb4Weight:
    """A weight from the tensors of one module; they are kept as they are.

    Args:
        spec: the module; its shape, where known, must be the quant state's.
        tensors: name without the module prefix -> tensor.
        dtype: compute dtype.

    Raises:
        CheckpointError: a tensor is not what it should be.
    """
    key = next(key for key in KEYS if key in tensors)
    state, state_bytes = QuantState.from_tensor(spec.name, key, tensors[key])
    shape = _shape(spec, key, state)
    n = shape[0] * shape[1]
    weight = tensors["weight"]
    packed = _packed(spec.name, weight, n)
    blocks = -(-n // state.block_size)
    absmax = tensors["weight.absmax"]
    quant_map = tensors["weight.quant_map"]
    where = f"{spec.name}.weight"
    expect(f"{where}.quant_map", quant_map, torch.float32, (16,))
    expect_finite(f"{where}.quant_map", quant_map)
    nested_absmax = tensors.get("weight.nested_absmax")
    nested_map = tensors.get("weight.nested_quant_map")
    if state.nested != (nested_absmax is not None):
        raise CheckpointError(
            f"{spec.name}.{key}: says {'double' if state.nested else 'single'} quantization, and "
            f"{where}.nested_absmax is {'missing' if nested_absmax is None else 'there'}"
        )
    expect(f"{where}.absmax", absmax, torch.uint8 if state.nested else torch.float32, (blocks,))
    if nested_absmax is not None and nested_map is not None:
        assert state.nested_block_size is not None
        groups = -(-blocks // state.nested_block_size)
        expect(f"{where}.nested_absmax", nested_absmax, torch.float32, (groups,))
        expect(f"{where}.nested_quant_map", nested_map, torch.float32, (256,))
        expect_finite(f"{where}.nested_absmax", nested_absmax)
        expect_finite(f"{where}.nested_quant_map", nested_map)
    else:
        expect_finite(f"{where}.absmax", absmax)
    return Bnb4Weight(
        shape,
        dtype,
        state=state,
        state_bytes=state_bytes,
        storage_dtype=weight.dtype,
        storage_shape=tuple(weight.shape),
        packed=packed,
        absmax=absmax,
        quant_map=quant_map,
        nested_absmax=nested_absmax,
        nested_quant_map=nested_map,
        standard=torch.equal(quant_map.cpu(), codebook(state.quant_type)),
    )


def unpack(weight: Bnb4Weight) -> dict[str, Tensor]:
    """The tensors `pack` was given, as views of the weight's storage."""
    stored = weight.storage()
    state_bytes = weight.state_bytes or weight.state.to_bytes()
    tensors = {
        "weight": stored["packed"].view(weight.storage_dtype).reshape(weight.storage_shape),
        "weight.absmax": stored["absmax"],
        "weight.quant_map": stored["quant_map"],
    }
    for name in ("nested_absmax", "nested_quant_map"):
        if name in stored:
            tensors[f"weight.{name}"] = stored[name]
    state = torch.tensor(list(state_bytes), dtype=torch.uint8, device=weight.device)
    return {**tensors, weight.state.key: state}


def empty(
    spec: ModuleSpec, state: QuantState, storage: torch.dtype, dtype: torch.dtype
) -> Bnb4Weight:
    """A weight without bytes, on the meta device."""
    assert spec.shape is not None
    n = spec.shape[0] * spec.shape[1]
    blocks = -(-n // state.block_size)

    def meta(count: int, kind: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(count, dtype=kind, device="meta")

    nested_absmax = nested_map = None
    if state.nested_block_size is not None:
        nested_absmax, nested_map = meta(-(-blocks // state.nested_block_size)), meta(256)
    return Bnb4Weight(
        tuple(spec.shape),
        dtype,
        state=state,
        state_bytes=None,
        storage_dtype=storage,
        storage_shape=(-(-n // (2 * storage.itemsize)), 1),
        packed=meta((n + 1) // 2, torch.uint8),
        absmax=meta(blocks, torch.uint8 if state.nested else torch.float32),
        quant_map=meta(16),
        nested_absmax=nested_absmax,
        nested_quant_map=nested_map,
    )


def _shape(spec: ModuleSpec, key: str, state: QuantState) -> tuple[int, ...]:
    if state.shape is None:
        if spec.shape is None:
            raise CheckpointError(
                f"{spec.name}.{key}: has no shape, and nothing else says what it is"
            )
        return tuple(spec.shape)
    if spec.shape is not None and tuple(spec.shape) != state.shape:
        raise CheckpointError(
            f"{spec.name}.{key}: shape: expected {list(spec.shape)}, found {list(state.shape)}"
        )
    return state.shape


def _packed(name: str, weight: Tensor, n: int) -> Tensor:
    nbytes = (n + 1) // 2
    if weight.dtype not in STORAGES or weight.nbytes != nbytes:
        raise CheckpointError(
            f"{name}.weight: expected {nbytes} bytes of packed codes ({n} elements in 4 bits), "
            f"found {weight.nbytes} bytes in {weight.dtype} {list(weight.shape)}"
        )
    return weight.reshape(-1).view(torch.uint8)
