"""What a checkpoint had, lacked, and was let get away with."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from quantload.errors import CheckpointError

logger = logging.getLogger(__name__)

_SHOWN = 20


@dataclass
class LoadReport:
    """The differences between a checkpoint and the model it was loaded into.

    Attributes:
        source: the checkpoint, for messages.
        missing: tensors of the model that the checkpoint lacks.
        unexpected: tensors of the checkpoint that the model lacks, with their file.
        mismatched: tensors whose shape or dtype does not fit: what was expected and found.
        ignored: tensors of the checkpoint that the model's class says to leave out.
        biases: those that packed modules have in the checkpoint and not in the model, and that
            are not all zeros, with their file; they are unexpected, too.
        untied: pairs that the model ties and the checkpoint keeps apart, and why.
        packed: modules with a packed weight.
        left_float: modules the method would pack and the checkpoint or the class keeps float.
    """

    source: str
    missing: list[str] = field(default_factory=list)
    unexpected: dict[str, str] = field(default_factory=dict)
    mismatched: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    biases: dict[str, str] = field(default_factory=dict)
    untied: dict[tuple[str, str], str] = field(default_factory=dict)
    packed: list[str] = field(default_factory=list)
    left_float: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether checkpoint and model hold the same tensors."""
        return not (self.missing or self.unexpected or self.mismatched)

    def lines(self) -> list[str]:
        """One line per difference, cut to what a screen can take."""
        found = [f"missing: {name} (the model needs it, no file has it)" for name in self.missing]
        found += [f"does not fit: {what}" for what in self.mismatched.values()]
        found += [
            f"unexpected: {name} in {file} (the model has no place for it)"
            for name, file in self.unexpected.items()
        ]
        more = len(found) - _SHOWN
        return [*found[:_SHOWN], f"... and {more} more"] if more > 0 else found

    def settle(self, strict: bool) -> None:
        """Raise, or log, what was found.

        Raises:
            CheckpointError: with `strict`, where checkpoint and model differ.
        """
        if self.clean:
            return
        listing = "\n".join(f"  {line}" for line in self.lines())
        counts = (
            f"{len(self.missing)} missing, {len(self.mismatched)} that do not fit, "
            f"{len(self.unexpected)} unexpected"
        )
        if strict:
            raise CheckpointError(
                f"{self.source}: the checkpoint is not that of this model ({counts}):\n{listing}\n"
                f"Nothing was loaded. strict=False lets this pass: what is missing or does not "
                f"fit is then initialised, what is unexpected left out"
            )
        logger.warning("%s: let pass with strict=False (%s):\n%s", self.source, counts, listing)
