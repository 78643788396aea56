"""What a load through `transformers` is planned from: its files, their names, what takes what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.core_model_loading import WeightRenaming, dot_natural_key

from quantload.checkpoint import Checkpoint, open_checkpoint
from quantload.errors import UnsupportedOperationError
from quantload.integrations.transformers.bridge.pickled import SUFFIXES, PickledCheckpoint
from quantload.loading.plan import Decision
from quantload.quantizers.spec import ModuleSpec


def opened(files: Sequence[str] | None) -> Checkpoint:
    """The checkpoint that the files of a load are.

    Raises:
        UnsupportedOperationError: there are none.
    """
    if not files:
        raise UnsupportedOperationError(
            "a quantized model is loaded from files, whose headers say what is packed, and "
            "state_dict= is none: save it with safetensors.torch.save_file beside the config.json, "
            "and pass the folder"
        )
    paths = [Path(file) for file in files]
    if all(path.suffix in SUFFIXES for path in paths):
        return PickledCheckpoint(paths)
    if len(paths) == 1:
        return open_checkpoint(paths[0])
    return open_checkpoint(paths[0].parent, files=[path.name for path in paths])


def renamed_by(checkpoint: Checkpoint, conversions: list[Any]) -> dict[str, str]:
    """Every name of the checkpoint after the renamings, in the order of the loader.

    Some renamings remember what they saw.
    """
    renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
    found = {}
    for name in sorted(checkpoint.tensors, key=dot_natural_key):
        key = name
        for renaming in renamings:
            key, _ = renaming.rename_source_key(key)
        found[name] = key
    return found


def outputs_of(decided: Decision) -> dict[str, list[tuple[str, ModuleSpec | None]]]:
    """Float parameter -> what takes its bytes, where that is not just itself."""
    shared = decided.sharing.modules
    found = {}
    for name in decided.found.provided:
        takers = [name, *(n for n, source in decided.sharing.copies.items() if source == name)]
        takers = [taker for taker in takers if module_of(taker) not in shared]
        outputs = [(taker, decided.fresh.get(module_of(taker))) for taker in takers]
        if any(spec is not None for _, spec in outputs) or len(outputs) != 1:
            found[name] = outputs
    return found


def made_at_once(decided: Decision) -> dict[str, ModuleSpec]:
    """The modules that are quantized on load, where each process keeps its part of them.

    Their hosts are there from the beginning, for the loader would split float weights.

    Raises:
        UnsupportedOperationError: a weight is not one tensor of the checkpoint, of its own.
    """
    direct = {next(iter(r.targets)) for r in decided.found.routes if r.conversion is None}
    for name in decided.fresh:
        alone = name not in decided.sharing.modules and f"{name}.weight" in direct
        if not alone or f"{name}.weight" in decided.sharing.copies.values():
            raise UnsupportedOperationError(
                f"{name}: its weight is made of several tensors of the checkpoint, or shared, and "
                f"cannot be quantized and split in one go; save the quantized model without "
                f"tp_plan=, and load that folder with it"
            )
    return dict(decided.fresh)


def module_of(tensor: str) -> str:
    """The module whose weight a tensor is."""
    return tensor.removesuffix(".weight")


def discard(missing: set[str] | None, name: str) -> None:
    """Count a name as loaded."""
    if missing is not None:
        missing.discard(name)
