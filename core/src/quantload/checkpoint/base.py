"""`Checkpoint`: what every reader of tensors on disk gives, whatever the format."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from quantload.checkpoint.companions import companion_files
from quantload.checkpoint.jsonfile import parse_json, read_bytes
from quantload.checkpoint.paths import inside, show
from quantload.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

    from quantload.checkpoint.rawfile import RawFile
    from quantload.checkpoint.reading import Part
    from quantload.checkpoint.tensorinfo import TensorInfo


CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"


class Origin(Protocol):
    """What a model keeps of the file it came from, for the writer of the same format."""

    def file_name(self) -> str:
        """How the file is to be called in another folder."""

    def companions(self) -> dict[str, bytes]:
        """Files to put beside weights in another format: the tokenizer that is in it."""


class Checkpoint(ABC):
    """Tensors in files, found without reading them.

    A reader of another format derives from this, fills `tensors` (with a
    `TensorInfo` of its own where its dtypes are its own) and says through
    `raw_file` where each tensor's bytes are. A context manager; thread-safe.

    Attributes:
        path: the folder or file that was opened.
        folder: the one whose `config.json`, tokenizer and so on belong to the tensors.
        mmap: whether `read` may hand out tensors that lie in the mapped file.
        model_options: what the model's class is built with beside its config.
    """

    model_options: Mapping[str, Any] = MappingProxyType({})

    @property
    def origin(self) -> Origin | None:
        """What a model keeps of a file that says more than tensors, to be saved again."""
        return None

    def __init__(self, path: Path, *, mmap: bool = True) -> None:
        self.path = path
        self.mmap = mmap
        self.folder = path if path.is_dir() else path.parent
        # Kept as they are now: a save may replace the files while this is open.
        self._kept = {name: _keep(self.folder, name) for name in (CONFIG, GENERATION_CONFIG)}

    @classmethod
    @abstractmethod
    def open(cls, path: str | os.PathLike[str], *, mmap: bool = True) -> Checkpoint:
        """Open a file (or folder) of this format, reading headers only."""

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name -> `TensorInfo`, file by file and in file order."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """Text that the files carry beside the tensors."""

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors, in order."""

    @abstractmethod
    def raw_file(self, info: TensorInfo) -> RawFile:
        """The open file that holds a tensor's bytes."""

    @abstractmethod
    def close(self) -> None:
        """Close the files. Tensors that were read stay valid; reading more raises."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    def config(self) -> dict[str, Any]:
        """The `config.json` beside the tensors as it was when they were opened; {} if none."""
        return self._object(CONFIG)

    def generation_config(self) -> dict[str, Any]:
        """The `generation_config.json` beside the tensors, likewise; {} if none."""
        return self._object(GENERATION_CONFIG)

    def companions(self, *, code: bool = False) -> dict[str, Path]:
        """See `companion_files`."""
        return companion_files(self.folder, code=code)

    def read(
        self, name: str, *, rows: slice | None = None, device: str | torch.device = "cpu"
    ) -> torch.Tensor:
        """A tensor, or some of its rows.

        On the CPU and with `mmap`, an aligned tensor lies in a private mapping of
        the file: this takes no time and no memory until it is used, and writing to
        it never changes the file (but shows in other reads of the same bytes from
        this checkpoint). All other tensors are read into memory of their own.

        Args:
            name: the tensor.
            rows: which of the first dimension; step 1.
            device: where to put it ("meta" gives the shape alone).

        Returns:
            A contiguous tensor of `torch_dtype`, `(rows, *torch_shape[1:])`.

        Raises:
            CheckpointError: no such tensor, or it cannot be read.
        """
        import torch

        from quantload.checkpoint.reading import read, read_to_device

        part = self._part(name, rows)
        target = torch.device(device)
        if target.type == "meta":
            return torch.empty(part.shape, dtype=part.dtype, device=target)
        if target.type != "cpu":
            return read_to_device(part, target)
        return read(part, mmap=self.mmap)

    def read_into(
        self, name: str, buffer: torch.Tensor, *, rows: slice | None = None
    ) -> torch.Tensor:
        """The same, read into a buffer that the caller uses again and again.

        The pages of the file do not become part of the process, and those of the
        buffer are touched once only: this is the way to convert a large file in
        little memory.

        Args:
            name: the tensor.
            buffer: contiguous CPU tensor with room for the bytes; see `nbytes`.
            rows: which of the first dimension; step 1.

        Returns:
            A view of the buffer's beginning, valid until the buffer is used again.

        Raises:
            CheckpointError: as for `read`, and for a buffer that does not serve.
        """
        from quantload.checkpoint.reading import read_into

        return read_into(self._part(name, rows), buffer)

    def read_raw(self, name: str) -> torch.Tensor:
        """The bytes of a tensor as a flat uint8 tensor, whatever its dtype.

        Raises:
            CheckpointError: as for `read`.
        """
        from quantload.checkpoint.reading import raw_part, read

        info = self.info(name)
        return read(raw_part(info, self.raw_file(info)), mmap=self.mmap)

    def release(self, name: str) -> None:
        """Give back the memory of a mapped tensor's pages; they are read again if touched.

        Whatever was written into the tensor is lost.
        """
        info = self.info(name)
        self.raw_file(info).release(info.offset, info.nbytes)

    def info(self, name: str) -> TensorInfo:
        """The `TensorInfo` of a name.

        Raises:
            CheckpointError: there is no such tensor.
        """
        try:
            return self.tensors[name]
        except KeyError:
            import difflib

            close = difflib.get_close_matches(name, self.tensors, n=3)
            hint = f"; did you mean {' or '.join(map(show, close))}?" if close else ""
            raise CheckpointError(
                f"{self.path}: no tensor {show(name)} among its {len(self.tensors)}{hint}"
            ) from None

    def _part(self, name: str, rows: slice | None) -> Part:
        from quantload.checkpoint.reading import part_of

        info = self.info(name)
        return part_of(info, self.raw_file(info), rows)

    def _object(self, name: str) -> dict[str, Any]:
        kept = self._kept[name]
        if isinstance(kept, CheckpointError):
            raise kept
        return {} if kept is None else parse_json(kept, self.folder / name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({str(self.path)!r}, {len(self)} tensors, {self.nbytes} bytes)"
        )


def _keep(folder: Path, name: str) -> bytes | CheckpointError | None:
    """The bytes of a file, None where there is none, or why they cannot be had."""
    if not os.path.lexists(folder / name):
        return None
    try:
        return read_bytes(inside(folder, name))
    except CheckpointError as error:
        return error
