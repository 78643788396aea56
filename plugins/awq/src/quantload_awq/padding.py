"""Scales that are padded with zeros: how many of them are real."""

from __future__ import annotations

from torch import Tensor

from quantload.plugin import CheckpointError


def check_padding(name: str, scales: Tensor, groups: int) -> None:
    """Refuse scales that show another number of groups than the config.

    Args:
        name: of the tensor.
        scales: `[out_features, padded groups]`.
        groups: as the config has it.

    Raises:
        CheckpointError: there are scales after the last group, or none in one before it.
    """
    real = int((scales != 0).any(dim=0).nonzero().max()) + 1 if bool(scales.any()) else 0
    if real != groups:
        raise CheckpointError(
            f"{name}: scales for {real} groups, expected {groups}; group_size in the quantization "
            f"config is another than that of the file"
        )
