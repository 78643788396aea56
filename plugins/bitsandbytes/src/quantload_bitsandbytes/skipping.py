"""Modules of a float model that are left alone whatever the method would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def float_modules(model: nn.Module) -> list[str]:
    """What the model's class keeps in float32, as `transformers` has it."""
    kept = getattr(model, "_keep_in_fp32_modules", None) or ()
    return sorted(map(str, kept))


def tied_modules(model: nn.Module) -> set[str]:
    """Modules whose weight is another module's too."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    found = {key.removesuffix(".weight") for pair in tied.items() for key in pair}
    owners: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = owners.setdefault(id(parameter), name)
        if first != name:
            found.update(other.rpartition(".")[0] for other in (first, name))
    return found
