"""Float weights to packed ones, as the config says."""

from __future__ import annotations

import torch
from torch import Tensor

from quantload.plugin import CheckpointError, ModuleSpec, UnsupportedOperationError
from quantload_bitsandbytes import library
from quantload_bitsandbytes.codebooks import codebook, dynamic_map
from quantload_bitsandbytes.config import BitsAndBytesConfig
from quantload_bitsandbytes.int8 import quantize_rows
from quantload_bitsandbytes.nested import NESTED_BLOCK_SIZE, quantize_absmax
from quantload_bitsandbytes.quantize4 import FLOATS, quantize_4bit
from quantload_bitsandbytes.state import QuantState
from quantload_bitsandbytes.weights import Bnb4Weight, Bnb8Weight
from quantload_bitsandbytes.workspace import Workspace

_TORCH_DTYPES = {
    "U8": torch.uint8,
    "I8": torch.int8,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def planned_state(spec: ModuleSpec, config: BitsAndBytesConfig) -> QuantState:
    """The quant state that quantizing will give, but for the offset."""
    dtype = str(spec.dtype or torch.get_default_dtype()).removeprefix("torch.")
    shape = None if spec.shape is None else tuple(spec.shape)
    nested = NESTED_BLOCK_SIZE if config.bnb_4bit_use_double_quant else None
    return QuantState(config.bnb_4bit_quant_type, config.bnb_4bit_blocksize, dtype, shape, nested)


def stored_state(spec: ModuleSpec, config: BitsAndBytesConfig) -> tuple[QuantState, torch.dtype]:
    """The quant state and storage dtype of a packed module, from its headers alone."""
    assert spec.shape is not None
    n = spec.shape[0] * spec.shape[1]
    absmax, weight = spec.tensors["weight.absmax"], spec.tensors["weight"]
    blocks = max(absmax.shape[0], 1) if absmax.shape else 1
    # The smallest power of two that makes this many blocks of n elements.
    block_size = 2
    while -(-n // block_size) > blocks:
        block_size *= 2
    nested = None
    if "weight.nested_absmax" in spec.tensors:
        nested = NESTED_BLOCK_SIZE
    dtype = str(spec.dtype or config.bnb_4bit_compute_dtype).removeprefix("torch.")
    state = QuantState(spec.params["quant_type"], block_size, dtype, tuple(spec.shape), nested)
    return state, _TORCH_DTYPES.get(weight.dtype, torch.uint8)


def make_4bit(
    spec: ModuleSpec,
    source: Tensor,
    dtype: torch.dtype,
    config: BitsAndBytesConfig,
    workspace: Workspace,
) -> Bnb4Weight:
    """Quantize in blocks, and the absmax too where the config says so.

    Args:
        spec: the module, for errors.
        source: `[out_features, in_features]`, where the weight is to be.
        dtype: compute dtype.
        config: type, block size, storage, double quantization.
        workspace: scratch buffers.
    """
    storage: torch.dtype = config.bnb_4bit_quant_storage
    shape = (source.shape[0], source.shape[1])
    packed_bytes = (source.numel() + 1) // 2
    if packed_bytes % storage.itemsize:
        raise UnsupportedOperationError(
            f"{spec.name}: {packed_bytes} bytes of a weight of shape {list(shape)} do not fill "
            f"whole elements of bnb_4bit_quant_storage={storage}; use uint8, or name the module "
            f"in llm_int8_skip_modules"
        )
    if source.dtype not in FLOATS:
        source = source.float()
    quant_type, block_size = config.bnb_4bit_quant_type, config.bnb_4bit_blocksize
    made = library.quantize_4bit(source, block_size, quant_type)
    if made is None:
        made = quantize_4bit(source, block_size, quant_type, workspace)
    _refuse_nonfinite(spec, made.absmax, workspace)
    absmax, nested_absmax, nested_map, offset = made.absmax, None, None, 0.0
    if config.bnb_4bit_use_double_quant:
        nested = library.quantize_absmax(absmax) or quantize_absmax(absmax, workspace)
        absmax, nested_absmax, offset = nested.codes, nested.absmax, nested.offset.item()
        nested_map = dynamic_map().to(source.device, copy=True)
    state = QuantState(
        quant_type,
        block_size,
        str(source.dtype).removeprefix("torch."),
        shape,
        NESTED_BLOCK_SIZE if config.bnb_4bit_use_double_quant else None,
        offset,
    )
    return Bnb4Weight(
        shape,
        dtype,
        state=state,
        state_bytes=state.to_bytes(),
        storage_dtype=storage,
        storage_shape=(packed_bytes // storage.itemsize, 1),
        packed=made.packed,
        absmax=absmax,
        quant_map=codebook(quant_type).to(source.device, copy=True),
        nested_absmax=nested_absmax,
        nested_quant_map=nested_map,
    )


def make_8bit(
    spec: ModuleSpec,
    source: Tensor,
    dtype: torch.dtype,
    config: BitsAndBytesConfig,
    workspace: Workspace,
) -> Bnb8Weight:
    """Quantize by rows; the arguments are those of `make_4bit`."""
    made = library.quantize_rows(source) or quantize_rows(source, workspace)
    codes, scales = made
    _refuse_nonfinite(spec, scales, workspace)
    return Bnb8Weight(
        (source.shape[0], source.shape[1]),
        dtype,
        codes=codes,
        scales=scales,
        threshold=config.llm_int8_threshold,
        format_shape=(),
    )


def _refuse_nonfinite(spec: ModuleSpec, scales: Tensor, workspace: Workspace) -> None:
    """Every scale is a largest magnitude, so a number that is none shows in one."""
    size = scales.numel() if scales.device.type == "cpu" else 0
    if scales.numel() and not torch.isfinite(workspace.unsplit(size, scales.amax)):
        raise CheckpointError(
            f"{spec.name}.weight: expected finite numbers, found a NaN, an infinity, or (for "
            f"LLM.int8, which goes through float16) a magnitude over 65504; name the module in "
            f"llm_int8_skip_modules to leave it float"
        )
