"""What a loaded model remembers of where it came from, so that it can be saved again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from quantload.loading.report import LoadReport
from quantload.quantizers.spec import ModuleSpec

if TYPE_CHECKING:
    from quantload.checkpoint.base import Origin
    from quantload.quantizers.base import HfQuantizer

_ATTRIBUTE = "_quantload"


@dataclass
class LoadRecord:
    """Where a model's tensors came from.

    Attributes:
        folder: of the checkpoint, with its tokenizer and other companions.
        config: its `config.json` as it was.
        names: model name -> checkpoint name, of tensors used as they are and of
            packed modules.
        groups: model names -> checkpoint names, of tensors that were converted together.
        specs: packed module -> spec.
        quantizer: the method; None for a float model.
        report: how checkpoint and model differed.
        code: whether the checkpoint's Python files were trusted.
        origin: see `Checkpoint.origin`.
        conversions: the transforms of `transformers` that its own loader applied; None
            where it did not load the model, and those of the model count.
        in_parts: each of several processes has a part of the packed weights only.
    """

    folder: Path
    config: dict[str, Any]
    names: dict[str, str]
    groups: dict[tuple[str, ...], tuple[str, ...]]
    specs: dict[str, ModuleSpec]
    quantizer: HfQuantizer | None
    report: LoadReport
    code: bool = False
    origin: Origin | None = None
    conversions: list[Any] | None = None
    in_parts: bool = False


def attach(model: nn.Module, record: LoadRecord) -> None:
    """Let a model remember its record."""
    setattr(model, _ATTRIBUTE, record)


def record_of(model: nn.Module) -> LoadRecord | None:
    """The record of a model that was loaded here, else None."""
    found = getattr(model, _ATTRIBUTE, None)
    return found if isinstance(found, LoadRecord) else None


def is_transformers_model(model: nn.Module) -> bool:
    """Whether a model's class derives from `transformers`' base class, without importing it."""
    return any(
        base.__name__ == "PreTrainedModel" and base.__module__.startswith("transformers.")
        for base in type(model).__mro__
    )
