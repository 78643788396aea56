"""The units of work of a load: what is read together and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from quantload.checkpoint.tensorinfo import TensorInfo
from quantload.loading.device_map import Place
from quantload.loading.names import Conversion, Slot
from quantload.quantizers.spec import ModuleSpec


@dataclass(frozen=True)
class Output:
    """A tensor of the model, or a packed weight made from it.

    Attributes:
        name: the model's name of the (float) tensor.
        place: where it is to be.
        dtype: of the float tensor; one that is quantized has it before.
        shape: of the float tensor, as the model's class stores it.
        spec: the module to quantize it for; None keeps it as it is.
    """

    name: str
    place: Place
    dtype: torch.dtype
    shape: tuple[int, ...]
    spec: ModuleSpec | None = None


@dataclass(frozen=True)
class TensorStep:
    """One tensor of the checkpoint becomes one of the model."""

    source: TensorInfo
    output: Output

    @property
    def sources(self) -> tuple[TensorInfo, ...]:
        """What is read."""
        return (self.source,)


@dataclass(frozen=True)
class ConvertStep:
    """Several tensors become one, or one several.

    Attributes:
        sources: what is read, by name in the checkpoint's order.
        conversion: what is done with them.
        outputs: model name -> what it becomes. Others that come out are dropped.
        slots: where each source goes in the only output, if that is all there is to do.
    """

    sources: tuple[TensorInfo, ...]
    conversion: Conversion
    outputs: Mapping[str, Output]
    slots: Mapping[str, Slot] | None = None


@dataclass(frozen=True)
class PackStep:
    """The tensors of one packed module become its weight.

    Attributes:
        spec: the module, under the model's name.
        tensors: name without the module prefix -> what is read.
        place: where the weight is to be.
    """

    spec: ModuleSpec
    tensors: Mapping[str, TensorInfo]
    place: Place

    @property
    def sources(self) -> tuple[TensorInfo, ...]:
        """What is read."""
        return tuple(self.tensors.values())


Step = TensorStep | ConvertStep | PackStep
