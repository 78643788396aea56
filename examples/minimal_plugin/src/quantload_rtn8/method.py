"""The method: what is stored, which numbers it stands for, and how a float weight becomes it."""

import torch
from torch import Tensor

from quantload.plugin import PartsQuantizer, PartsWeight, part


class Rtn8Weight(PartsWeight):
    layout = "rtn8"
    codes: Tensor = part("int8", "out", "in")
    scale: Tensor = part("float32", "out", 1)

    def decode(self, dtype: torch.dtype) -> Tensor:
        return (self.codes * self.scale).to(dtype)


class Rtn8Quantizer(PartsQuantizer):
    weight_class = Rtn8Weight

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        return {"codes": (weight / scale).round().to(torch.int8), "scale": scale}
