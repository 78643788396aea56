"""`AqlmWeight`: tiles of a matrix as sums of codebook entries, times a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.errors import UnsupportedOperationError
from quantload.plugin import PackedWeight

CODES_AT_A_TIME = 1 << 20
"""Codes decoded in one go: their 8-byte indices stay within the caches' reach."""


class AqlmWeight(PackedWeight):
    """An AQLM weight, in the checkpoint's own layout.

    Source of the format: the `aqlm` package, `aqlm.utils.unpack_int_data` and
    `_dequantize_weight`. The tile of `out_group x in_group` weights at (r, c) is
    `scales[r] * sum_k codebooks[k, codes[r, c, k]]`.

    Args:
        codes: int8, int16 or int32 `[out / out_group, in / in_group, codebooks]`,
            unsigned values wrapped into the signed type at `2 ** nbits`.
        codebooks: float `[codebooks, 2 ** nbits, out_group, in_group]`.
        scales: float `[out / out_group, 1, 1, 1]`.
        dtype: compute dtype.
    """

    layout = "aqlm"

    codes: Tensor
    codebooks: Tensor
    scales: Tensor

    def __init__(
        self, codes: Tensor, codebooks: Tensor, scales: Tensor, dtype: torch.dtype
    ) -> None:
        _, _, out_group, in_group = codebooks.shape
        super().__init__((codes.shape[0] * out_group, codes.shape[1] * in_group), dtype)
        self.store("codes", codes)
        self.store("codebooks", codebooks)
        self.store("scales", scales)

    @property
    def groups(self) -> tuple[int, int]:
        """`(out_group_size, in_group_size)`."""
        return self.codebooks.shape[2], self.codebooks.shape[3]

    def kernel_params(self) -> Mapping[str, Any]:
        """Number and size of the codebooks, and the group sizes."""
        count, entries, out_group, in_group = self.codebooks.shape
        return {
            "codebooks": count,
            "entries": entries,
            "out_group": out_group,
            "in_group": in_group,
        }

    def decode(self, dtype: torch.dtype) -> Tensor:
        """`[out_features, in_features]`; sums and products in float32."""
        return self._decode(self.codes, self.scales, dtype)

    def decode_rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Only the rows asked for are decoded."""
        out_group, _ = self.groups
        flat = ids.reshape(-1)
        blocks = flat // out_group
        tiles = self._decode(self.codes[blocks], self.scales[blocks], dtype)
        rows = tiles.view(flat.numel(), out_group, self.shape[1])[
            torch.arange(flat.numel(), device=flat.device), flat % out_group
        ]
        return rows.view(*ids.shape, self.shape[1])

    def _decode(self, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        count, entries, out_group, in_group = self.codebooks.shape
        blocks, columns, _ = codes.shape
        table = self.codebooks.float().reshape(count * entries, out_group * in_group)
        firsts = torch.arange(count, device=codes.device) * entries
        result = torch.empty(blocks, out_group, columns, in_group, dtype=dtype, device=codes.device)
        step = max(1, CODES_AT_A_TIME // max(1, columns * count))
        for start in range(0, blocks, step):
            part = slice(start, start + step)
            index = (codes[part].long() & (entries - 1)) + firsts
            tiles = F.embedding_bag(index.view(-1, count), table, mode="sum")
            tiles = tiles.view(-1, columns, out_group, in_group) * scales[part].float()
            result[part] = tiles.transpose(1, 2)
        return result.view(blocks * out_group, columns * in_group)

    def shard(self, dim: int, rank: int, world: int) -> AqlmWeight:
        """Whole groups go to each of the `world` parts.

        Raises:
            UnsupportedOperationError: the groups cannot be dealt out evenly.
        """
        own = self.canonical()
        total = own.codes.shape[dim]
        if total % world:
            raise UnsupportedOperationError(
                f"{total} groups along dimension {dim} cannot be split into {world} equal parts"
            )
        size = total // world
        codes = own.codes.narrow(dim, rank * size, size).contiguous()
        scales = own.scales.narrow(0, rank * size, size) if dim == 0 else own.scales
        return AqlmWeight(codes, own.codebooks, scales.contiguous(), own.dtype)

    def join_stored(self, name: str, pieces: Sequence[Tensor], dim: int) -> Tensor:
        """See `PackedWeight.join_stored`; codebooks are whole in every part."""
        cut = name == "codes" or (name == "scales" and dim == 0)
        return torch.cat(list(pieces), dim) if cut else pieces[0]
