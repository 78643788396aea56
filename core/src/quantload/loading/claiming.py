"""Asking a method what of a checkpoint is packed, with errors that say the file."""

from __future__ import annotations

from quantload.checkpoint.base import Checkpoint
from quantload.checkpoint.blame import file_named
from quantload.quantizers.spec import ModuleSpec
from quantload.quantizers.weight import WeightQuantizer


def claimed(quantizer: WeightQuantizer, checkpoint: Checkpoint) -> dict[str, ModuleSpec]:
    """See `WeightQuantizer.claims`.

    Raises:
        CheckpointError: tensors contradict each other or the config; it names the file.
    """
    with file_named(checkpoint.tensors, checkpoint.path):
        return quantizer.claims(checkpoint.tensors)
