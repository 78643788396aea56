"""Activations that AWQ divides, to undo a scaling folded into the layer before."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScaledActivation(nn.Module):
    """An activation whose output is divided by one scale per feature.

    Models whose activation has no weights around it that could take the scales over
    (MPT, Bloom, GPT-J, GPT-NeoX, Falcon, StarCoder2) carry them as `act.scales`.

    Args:
        act: the activation.
        scales: `[features]`.
    """

    def __init__(self, act: nn.Module, scales: Tensor) -> None:
        super().__init__()
        self.act = act
        self.scales = nn.Parameter(scales, requires_grad=False)

    @classmethod
    def empty(cls, act: nn.Module, features: int, dtype: torch.dtype) -> ScaledActivation:
        """With scales on the meta device."""
        return cls(act, torch.empty(features, dtype=dtype, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        """`act(x) / scales`, in the dtype of `x`."""
        y: Tensor = self.act(x)
        return y / self.scales.to(y.dtype)
