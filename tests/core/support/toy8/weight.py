from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantload.plugin import PackedWeight, UnsupportedOperationError


class Toy8Weight(PackedWeight):
    """`codes` int8 `[out, in]`, `scales` float `[out]`: W = codes * scales."""

    layout = "toy8"

    def __init__(self, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
        super().__init__(tuple(codes.shape), dtype)
        self.store("codes", codes)
        self.store("scales", scales)

    def decode(self, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        return (self.codes.to(wide) * self.scales.to(wide)[:, None]).to(dtype)

    def decode_rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        return (self.codes[ids].to(wide) * self.scales[ids].to(wide)[..., None]).to(dtype)

    def shard(self, dim: int, rank: int, world: int) -> Any:
        whole = self.canonical()
        if self.shape[dim] % world:
            raise UnsupportedOperationError(f"{self.shape[dim]} does not divide by {world}")
        codes = whole.codes.chunk(world, dim)[rank].contiguous()
        scales = whole.scales.chunk(world)[rank].clone() if dim == 0 else whole.scales.clone()
        return type(self)(codes, scales, self.dtype)
