"""`ModelParts`: a model in the hands of a writer of another file format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from quantload.weights.packed import PackedWeight


@dataclass(frozen=True)
class ModelParts:
    """What a model is made of, and where it came from.

    Attributes:
        model: the model.
        weights: module name -> packed weight; shared ones under each of their names.
        tensors: name -> float tensor, likewise; on meta where it is offloaded.
        read: gives the tensor of a name, wherever it is.
        fetched: within `with fetched(weight):` an offloaded packed weight is there.
        origin: what the reader of the checkpoint keeps, see `Checkpoint.origin`.
        folder: of the checkpoint, with its tokenizer; None where it is gone or there
            never was one.
    """

    model: nn.Module
    weights: Mapping[str, PackedWeight]
    tensors: Mapping[str, Tensor]
    read: Callable[[str], Tensor]
    fetched: Callable[[nn.Module], AbstractContextManager[None]]
    origin: Any = None
    folder: Path | None = None
