"""Between the tensors of a checkpoint and `GgufWeight`.

In a checkpoint a packed module has one tensor, `weight`: uint8
`[*shape[:-1], bytes per row]`. Its type is in its header where the file is a GGUF
file, and in the config where it is not.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from quantload.errors import CheckpointError
from quantload.quantizers.spec import ModuleSpec, TensorHeader
from quantload_gguf.config import GgufConfig
from quantload_gguf.ggml import TYPES, ggml_type
from quantload_gguf.weight import GgufWeight

WEIGHT = "weight"
TYPE = "ggml_type"
_PACKED = {t.name for t in TYPES if t.packed and t.decodable}


def claim(name: str, header: TensorHeader, config: GgufConfig) -> ModuleSpec | None:
    """The spec of the module whose packed weight this tensor is; None for others.

    Args:
        name: the tensor's full name.
        header: of the tensor.
        config: says the types of tensors that are plain bytes.

    Raises:
        CheckpointError: bytes without a type, or not those of whole blocks.
    """
    module, _, leaf = name.rpartition(".")
    if leaf != WEIGHT and name != WEIGHT:
        return None
    if header.dtype in _PACKED:
        return ModuleSpec(
            module, shape=tuple(header.shape), tensors={WEIGHT: header}, params={TYPE: header.dtype}
        )
    if header.dtype != "U8":
        return None
    type_name = config.type_of(module)
    if type_name is None:
        raise CheckpointError(
            f"{name}: holds bytes (uint8 {list(header.shape)}), and the config does not say of "
            f"which ggml type: expected GgufConfig(type=...) or types={{{module!r}: ...}}"
        )
    kind = ggml_type(type_name)
    if not header.shape or header.shape[-1] % kind.nbytes:
        raise CheckpointError(
            f"{name}: expected rows of blocks of {kind.name}, a multiple of {kind.nbytes} bytes, "
            f"found shape {list(header.shape)}"
        )
    shape = (*header.shape[:-1], header.shape[-1] // kind.nbytes * kind.elements)
    return ModuleSpec(module, shape=shape, tensors={WEIGHT: header}, params={TYPE: kind.name})


def weight_of(spec: ModuleSpec, tensors: Mapping[str, Tensor], config: GgufConfig) -> GgufWeight:
    """The weight of a module from its tensor.

    Raises:
        CheckpointError: the tensor is absent or not of the spec's shape and type.
    """
    import torch

    blocks = tensors.get(WEIGHT)
    kind = spec.params.get(TYPE, config.type_of(spec.name))
    if blocks is None or kind is None:
        lacks = "the tensor 'weight'" if blocks is None else "a ggml type"
        listing = ", ".join(sorted(tensors)) or "none"
        raise CheckpointError(f"{spec.name}: expected {lacks}, found tensors: {listing}")
    dtype = config.compute_dtype or spec.dtype or torch.float32
    try:
        return GgufWeight.from_blocks(blocks, kind, spec.shape, dtype=dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{spec.name}: {error}") from error
