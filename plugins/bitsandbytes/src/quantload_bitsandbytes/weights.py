"""The two layouts of bitsandbytes as packed weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quantload.plugin import PackedWeight
from quantload_bitsandbytes.dequantize4 import dequantize_4bit
from quantload_bitsandbytes.int8 import dequantize_rows
from quantload_bitsandbytes.nested import dequantize_absmax
from quantload_bitsandbytes.state import QuantState


class Bnb4Weight(PackedWeight):
    """NF4 or FP4 codes in blocks over the flattened weight.

    The bytes are kept as uint8 whatever dtype the file views them as, so that no code
    that casts float parameters can take them for numbers.

    Args:
        shape: `(out_features, in_features)`.
        dtype: compute dtype.
        state: the quant state.
        state_bytes: the quant state as it is in the file; None on meta.
        storage_dtype: as which the file views the packed bytes.
        storage_shape: shape of that view, commonly `[m, 1]`.
        packed: uint8 `[ceil(n / 2)]`.
        absmax: float32 `[ceil(n / block_size)]`, or uint8 with double quantization.
        quant_map: float32 `[16]`.
        nested_absmax: float32 `[ceil(len(absmax) / nested_block_size)]` or None.
        nested_quant_map: float32 `[256]` or None.
        standard: whether `quant_map` is the library's own, which its kernels assume.
    """

    layout: ClassVar[str] = "bitsandbytes_4bit"

    packed: nn.Parameter
    absmax: nn.Parameter
    quant_map: nn.Parameter
    nested_absmax: nn.Parameter | None
    nested_quant_map: nn.Parameter | None

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        *,
        state: QuantState,
        state_bytes: bytes | None,
        storage_dtype: torch.dtype,
        storage_shape: tuple[int, ...],
        packed: Tensor,
        absmax: Tensor,
        quant_map: Tensor,
        nested_absmax: Tensor | None = None,
        nested_quant_map: Tensor | None = None,
        standard: bool = True,
    ) -> None:
        super().__init__(shape, dtype)
        self.state = state
        self.state_bytes = state_bytes
        self.storage_dtype = storage_dtype
        self.storage_shape = storage_shape
        self.standard = standard
        self.store("packed", packed)
        self.store("absmax", absmax)
        self.store("quant_map", quant_map)
        self.store("nested_absmax", nested_absmax)
        self.store("nested_quant_map", nested_quant_map)

    def block_absmax(self) -> Tensor:
        """The absmax of every block, float32 `[n_blocks]`."""
        if self.nested_absmax is None or self.nested_quant_map is None:
            return self.absmax
        assert self.state.nested_block_size is not None
        return dequantize_absmax(
            self.absmax,
            self.nested_absmax,
            self.nested_quant_map,
            self.state.nested_offset,
            self.state.nested_block_size,
        )

    def decode(self, dtype: torch.dtype) -> Tensor:
        """`quant_map[code] * absmax` in float32, rounded once."""
        return dequantize_4bit(
            self.packed,
            self.block_absmax(),
            self.quant_map,
            self.state.block_size,
            self.numel(),
            dtype,
        ).view(self.shape)

    def decode_rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Only the rows asked for are decoded, where blocks do not cross rows."""
        rows, columns = self.shape
        block = self.state.block_size
        if columns % block:
            return super().decode_rows(ids, dtype)
        picked = ids.reshape(-1)
        packed = self.packed.view(rows, columns // 2).index_select(0, picked)
        absmax = self.block_absmax().view(rows, columns // block).index_select(0, picked)
        n = picked.numel() * columns
        flat = dequantize_4bit(packed.view(-1), absmax.view(-1), self.quant_map, block, n, dtype)
        return flat.view(*ids.shape, columns)

    def shard(self, dim: int, rank: int, world: int) -> Bnb4Weight:
        """The part of one of `world` processes; see `sharding.shard_4bit`."""
        from quantload_bitsandbytes.sharding import shard_4bit

        return shard_4bit(self.canonical(), dim, rank, world)

    def kept_apart(self, dim: int) -> tuple[str, ...]:
        """All but the codes of a doubly quantized weight: its parts have other absmax."""
        nested = ("absmax", "nested_absmax", "nested_quant_map")
        return (*nested, "quant_map") if self.state.nested else ("quant_map",)

    def join_stored(self, name: str, pieces: Sequence[Tensor], dim: int) -> Tensor:
        """See `PackedWeight.join_stored`."""
        if dim == 0:
            return torch.cat(list(pieces))
        rows = self.shape[0]
        return torch.cat([piece.view(rows, -1) for piece in pieces], 1).reshape(-1)

    def kernel_params(self) -> Mapping[str, Any]:
        """What the kernels ask: type, block size, double quantization, and whose table."""
        return {
            "quant_type": self.state.quant_type,
            "block_size": self.state.block_size,
            "nested_block_size": self.state.nested_block_size,
            "standard": self.standard,
        }


class Bnb8Weight(PackedWeight):
    """LLM.int8: a row is its codes times its largest magnitude, over 127.

    Args:
        shape: `(out_features, in_features)`.
        dtype: compute dtype.
        codes: int8 `[out_features, in_features]`.
        scales: float32 `[out_features]`.
        threshold: outlier threshold of the product; 0 for none.
        format_shape: shape of the file's `weight_format`; None where it has none.
    """

    layout: ClassVar[str] = "bitsandbytes_8bit"

    codes: nn.Parameter
    scales: nn.Parameter

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        *,
        codes: Tensor,
        scales: Tensor,
        threshold: float,
        format_shape: tuple[int, ...] | None,
    ) -> None:
        super().__init__(shape, dtype)
        self.threshold = threshold
        self.format_shape = format_shape
        self.store("codes", codes)
        self.store("scales", scales)

    def decode(self, dtype: torch.dtype) -> Tensor:
        """`codes * scales / 127` in float32, rounded once."""
        return dequantize_rows(self.codes, self.scales, dtype)

    def decode_rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Only the rows asked for are decoded."""
        picked = ids.reshape(-1)
        rows = dequantize_rows(
            self.codes.index_select(0, picked), self.scales.index_select(0, picked), dtype
        )
        return rows.view(*ids.shape, self.shape[1])

    def shard(self, dim: int, rank: int, world: int) -> Bnb8Weight:
        """The part of one of `world` processes; see `sharding.shard_8bit`."""
        from quantload_bitsandbytes.sharding import shard_8bit

        return shard_8bit(self.canonical(), dim, rank, world)

    def join_stored(self, name: str, pieces: Sequence[Tensor], dim: int) -> Tensor:
        """See `PackedWeight.join_stored`; parts of columns have all scales."""
        cut = name == "codes" or dim == 0
        return torch.cat(list(pieces), dim) if cut else pieces[0]

    def kernel_params(self) -> Mapping[str, Any]:
        """The outlier threshold."""
        return {"threshold": self.threshold}
