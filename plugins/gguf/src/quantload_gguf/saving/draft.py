"""`Draft`: a file that is about to be written, as far as facts are taken from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantload.errors import CheckpointError
from quantload_gguf.container import Field

if TYPE_CHECKING:
    from torch import Tensor

    from quantload.quantizers.spec import TensorHeader


@dataclass
class Draft:
    """Metadata under a path; see `Described`.

    Attributes:
        path: the file, for messages.
        fields: the metadata.
    """

    path: Path
    fields: Mapping[str, Field]
    tensors: Mapping[str, TensorHeader] = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, Any]:
        """Key -> value."""
        return {key: entry.value for key, entry in self.fields.items()}

    @property
    def architecture(self) -> str:
        """`general.architecture`."""
        return str(self.fields["general.architecture"].value)

    def info(self, name: str) -> TensorHeader:
        """Nothing is known of tensors."""
        raise CheckpointError(f"{self.path}: no tensor {name!r}")

    def dequantize(self, name: str) -> Tensor:
        """Nothing is known of tensors."""
        raise CheckpointError(f"{self.path}: no tensor {name!r}")
