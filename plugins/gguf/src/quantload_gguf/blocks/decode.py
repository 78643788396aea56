"""`dequantize`: blocks of any type to a float tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload_gguf.blocks import iq1, iq2, iq3, iq4, kquants, legacy, microscaling, plain, ternary
from quantload_gguf.ggml import GgmlType, ggml_type

Decoder = Callable[[Tensor], Tensor]

DECODERS: Mapping[str, Decoder] = {
    "F32": plain.f32,
    "F16": plain.f16,
    "BF16": plain.bf16,
    "Q4_0": legacy.q4_0,
    "Q4_1": legacy.q4_1,
    "Q5_0": legacy.q5_0,
    "Q5_1": legacy.q5_1,
    "Q8_0": legacy.q8_0,
    "Q2_K": kquants.q2_k,
    "Q3_K": kquants.q3_k,
    "Q4_K": kquants.q4_k,
    "Q5_K": kquants.q5_k,
    "Q6_K": kquants.q6_k,
    "IQ1_S": iq1.iq1_s,
    "IQ1_M": iq1.iq1_m,
    "IQ2_XXS": iq2.iq2_xxs,
    "IQ2_XS": iq2.iq2_xs,
    "IQ2_S": iq2.iq2_s,
    "IQ3_XXS": iq3.iq3_xxs,
    "IQ3_S": iq3.iq3_s,
    "IQ4_NL": iq4.iq4_nl,
    "IQ4_XS": iq4.iq4_xs,
    "TQ1_0": ternary.tq1_0,
    "TQ2_0": ternary.tq2_0,
    "MXFP4": microscaling.mxfp4,
    "NVFP4": microscaling.nvfp4,
}
"""Name of a type -> uint8 `[n, bytes per block]` to float32 `[n, elements per block]`."""

CHUNK = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Elements that are decoded at once: what stays in a cache, and a bound on the workspace."""


def dequantize(
    blocks: Tensor, which: str | int | GgmlType, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The numbers that blocks stand for, on the device they are on.

    With float32 they are those of the `gguf` package, bit for bit; other dtypes
    are rounded from these.

    Args:
        blocks: uint8 `[..., bytes per row]`.
        which: the ggml type, by name or number.
        dtype: of the result.

    Returns:
        `[..., elements per row]`.

    Raises:
        CheckpointError: no such type, or rows that are no whole number of blocks.
        UnsupportedOperationError: the type holds no weights.
    """
    kind = ggml_type(which)
    decoder = DECODERS.get(kind.name)
    if decoder is None:
        raise UnsupportedOperationError(
            f"{kind.name} is no type for weights and cannot be dequantized; types that can are "
            f"{', '.join(DECODERS)}"
        )
    if blocks.dtype != torch.uint8 or blocks.dim() == 0 or blocks.shape[-1] % kind.nbytes:
        raise CheckpointError(
            f"expected blocks of {kind.name} as uint8 [..., a multiple of {kind.nbytes}], found "
            f"{str(blocks.dtype).removeprefix('torch.')} {list(blocks.shape)}"
        )
    shape = (*blocks.shape[:-1], blocks.shape[-1] // kind.nbytes * kind.elements)
    flat = _viewable(blocks.contiguous()).view(-1, kind.nbytes)
    step = max(1, CHUNK.get(blocks.device.type, CHUNK["cuda"]) // kind.elements)
    if flat.shape[0] <= step:
        return decoder(flat).to(dtype).reshape(shape)
    out = torch.empty(flat.shape[0], kind.elements, dtype=dtype, device=blocks.device)
    for begin in range(0, flat.shape[0], step):
        out[begin : begin + step] = decoder(flat[begin : begin + step])
    return out.view(shape)


def _viewable(blocks: Tensor) -> Tensor:
    """Blocks from an offset at which their bytes may be viewed as wider numbers.

    A graph that is being traced cannot ask for the offset, and copies.
    """
    if torch.compiler.is_compiling() or blocks.storage_offset() % 4:
        return blocks.clone()
    return blocks
