"""Saving a model with a state dict that somebody hands over, as training libraries do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quantload.errors import UnsupportedOperationError
from quantload.loading.record import record_of
from quantload.weights.packed import PackedWeight, frozen

_SHOWN = 5


@contextmanager
def holding(model: nn.Module, state_dict: Mapping[str, Any]) -> Iterator[None]:
    """Let a model hold the tensors of a state dict for a while.

    What has the values that the model has anyway costs no memory; of the rest, packed storage
    goes to the model's device.

    Args:
        model: loaded with quantload.
        state_dict: all that `model.state_dict()` has, of the same shapes. Of tensors that are
            tied, one is enough.

    Raises:
        UnsupportedOperationError: it is of something else than this model: tensors lack, or
            are unknown, or do not fit; or this process has only parts of the model.
    """
    record = record_of(model)
    if record is not None and record.in_parts:
        raise _refusal("every process has a part of the packed weights; leave state_dict= out")
    own = model.state_dict(keep_vars=True)
    given = {name: value for name, value in state_dict.items() if isinstance(value, Tensor)}
    by_tensor = {id(own[name]): value for name, value in given.items() if name in own}
    unknown = [name for name in given if name not in own]
    missing = [
        name
        for name, tensor in own.items()
        if isinstance(tensor, Tensor) and id(tensor) not in by_tensor
    ]
    if unknown or missing:
        raise _refusal(
            "expected the names of model.state_dict(); "
            + "; ".join(
                f"{len(names)} {word}: {', '.join(names[:_SHOWN])}"
                for word, names in (("unknown", unknown), ("missing", missing))
                if names
            )
        )
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for name, tensor in own.items():
            if not isinstance(tensor, Tensor):
                continue
            new = _fitting(model, name, tensor, given.get(name, by_tensor[id(tensor)]))
            if new is None:
                continue
            module = model.get_submodule(name.rpartition(".")[0])
            leaf = name.rpartition(".")[2]
            where: dict[str, Any] = (
                module._parameters if leaf in module._parameters else module._buffers
            )
            before.append((where, leaf, where[leaf]))
            where[leaf] = frozen(new) if where is module._parameters else new
        yield
    finally:
        for where, leaf, old in before:
            where[leaf] = old


def _fitting(model: nn.Module, name: str, own: Tensor, new: Tensor) -> Tensor | None:
    """What is to be put in the place of a tensor; None where it has these values already."""
    if new is own or (new.is_meta and own.is_meta):
        return None
    packed = isinstance(model.get_submodule(name.rpartition(".")[0]), PackedWeight)
    if new.shape != own.shape or (packed and new.dtype != own.dtype):
        raise _refusal(
            f"{name}: expected {[*own.shape]} {own.dtype}, found {[*new.shape]} {new.dtype}"
        )
    if own.is_meta or new.is_meta:
        raise _refusal(f"{name} is offloaded in one of the two; leave state_dict= out")
    here = new.to(own.device)
    if here.dtype == own.dtype and torch.equal(_bytes(here), _bytes(own)):
        return None
    return here if packed else new


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _refusal(reason: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"save_pretrained(state_dict=...) takes the whole state dict of the model itself: {reason}"
    )
