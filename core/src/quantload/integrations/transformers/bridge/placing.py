"""Putting a packed weight into a model that `transformers` is loading."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from quantload.loading.device_map import DISK
from quantload.weights.packed import PackedWeight


def put_weight(model: Any, name: str, weight: PackedWeight, place: Any) -> dict[str, Tensor]:
    """Give the host of that name its weight.

    Args:
        model: the model.
        name: of the host.
        weight: on the device it is used on, or on the CPU where it goes to disk.
        place: a device, or "disk".

    Returns:
        What the loader has to write to disk, by full name; nothing where it is in place.
    """
    if place != DISK:
        if str(weight.device) != str(place):
            weight = weight.to(place)
        _set(model, name, weight)
        return {}
    stored = {f"{name}.weight.{key}": tensor for key, tensor in weight.storage().items()}
    _set(model, name, weight.to("meta"))
    return stored


def _set(model: Any, name: str, weight: PackedWeight) -> None:
    # Not `place_weight`, which asks for the whole shape: a process may have a part.
    model.get_submodule(name)._modules["weight"] = weight
