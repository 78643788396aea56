"""The way back from parts of a split weight to the whole, byte for byte.

A part need not hold all that the whole did: what stands in a checkpoint beside the numbers,
or what several parts would share. So the whole leaves an outline of itself when it is split,
which keeps that and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from quantload.errors import UnsupportedOperationError

if TYPE_CHECKING:
    from quantload.weights.packed import PackedWeight

    W = TypeVar("W", bound=PackedWeight)


def outline(whole: W, kept: Sequence[str]) -> W:
    """A weight without the bytes that its parts will hold.

    Args:
        whole: the weight.
        kept: names of the tensors that stay, as copies on the CPU; others go to meta.
    """
    own = whole.canonical()
    made = type(own).__new__(type(own))
    made.__dict__.update(own.__dict__)
    made._kernel, made._arranged, made.selection = None, False, None
    made._parameters = dict(own._parameters)
    tensors: dict[str, Tensor | None] = dict.fromkeys(own._parameters)
    for name, tensor in own.storage().items():
        tensors[name] = tensor.cpu().clone() if name in kept else tensor.to("meta")
    made._replace_storage(tensors)
    return made


def joined(outline: W, parts: Sequence[W], dim: int) -> W:
    """The whole again, on the CPU.

    Args:
        outline: what it left.
        parts: all of them, in order.
        dim: along which they were cut.

    Raises:
        UnsupportedOperationError: the layout cannot be joined, or these are not its parts.
    """
    pieces = [part.canonical().storage() for part in parts]
    found: dict[str, Tensor | None] = dict.fromkeys(outline._parameters)
    for name, tensor in outline.storage().items():
        found[name] = tensor
        if tensor.is_meta:
            held = [piece[name].cpu() for piece in pieces if name in piece]
            if len(held) != len(parts):
                raise _unfit(outline, name, "not every part has it")
            made = outline.join_stored(name, held, dim)
            if made.shape != tensor.shape or made.dtype != tensor.dtype:
                raise _unfit(outline, name, f"put together it is {list(made.shape)} {made.dtype}")
            found[name] = made
    whole = type(outline).__new__(type(outline))
    whole.__dict__.update(outline.__dict__)
    whole._parameters = {}
    whole._replace_storage(found)
    whole.set_compute_dtype(parts[0].dtype)
    return whole


def _unfit(weight: PackedWeight, name: str, why: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"these are not the parts of a {type(weight).__name__} of shape {list(weight.shape)}: "
        f"{name}: {why}"
    )
