"""Checkpoints of `torch.save` (`pytorch_model.bin`), as `transformers` still reads them.

quantload itself opens no pickle. Here `transformers` opens them in any case, with
`weights_only=True`, which runs no code of theirs; the plan is made from what the same call
gives, mapped where the file can be.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantload.checkpoint.base import Checkpoint
from quantload.checkpoint.dtypes import dtype_name
from quantload.checkpoint.tensorinfo import TensorInfo
from quantload.errors import CheckpointError, UnsupportedOperationError

if TYPE_CHECKING:
    from quantload.checkpoint.rawfile import RawFile

SUFFIXES = (".bin", ".pt", ".pth")


class PickledCheckpoint(Checkpoint):
    """The tensors of pickled files; only what `transformers` loads itself is opened so.

    Args:
        files: all of one folder.

    Raises:
        CheckpointError: a file cannot be read, or holds more than tensors.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__(files[0].parent)
        self._files = tuple(files)
        self._held: dict[str, Tensor] = {}
        self._infos: dict[str, TensorInfo] = {}
        for file in files:
            for name, tensor in _load(file).items():
                shape = tuple(tensor.shape)
                self._held[name] = tensor
                self._infos[name] = TensorInfo(
                    name, dtype_name(tensor.dtype), shape, tensor.nbytes, file, 0
                )

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, mmap: bool = True) -> PickledCheckpoint:
        """Open one file."""
        return cls([Path(path)])

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """See `Checkpoint.tensors`; offsets mean nothing."""
        return MappingProxyType(self._infos)

    @property
    def metadata(self) -> Mapping[str, str]:
        """None."""
        return {}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files."""
        return self._files

    def raw_file(self, info: TensorInfo) -> RawFile:
        """Refused: the bytes are in an archive."""
        raise UnsupportedOperationError(f"{info.file}: the bytes of a pickled file are not read")

    def read(
        self, name: str, *, rows: slice | None = None, device: str | torch.device = "cpu"
    ) -> Tensor:
        """A tensor, or some of its rows."""
        self.info(name)  # raises for a name that is not there
        found = self._held[name]
        return (found if rows is None else found[rows]).contiguous().to(device)

    def close(self) -> None:
        """Let go of the tensors."""
        self._held.clear()


def _load(file: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(
            file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
        )
    except Exception as error:  # whatever unpickling makes of a file
        raise CheckpointError(
            f"{file}: cannot be read as tensors of torch.save: {error}"
        ) from error
    others = [k for k, v in found.items() if not isinstance(v, Tensor)]
    if others:
        raise CheckpointError(f"{file}: expected tensors, found other objects at {others[:5]}")
    return dict(found)
