"""`SafetensorsCheckpoint`: one or more safetensors files that make one checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from quantload.checkpoint.base import Checkpoint
from quantload.checkpoint.index import check_against_index, read_index
from quantload.checkpoint.paths import inside, plain_name, show
from quantload.checkpoint.rawfile import RawFile
from quantload.checkpoint.safetensors_file import SafetensorsFile
from quantload.checkpoint.tensorinfo import TensorInfo
from quantload.errors import CheckpointError


class SafetensorsCheckpoint(Checkpoint):
    """A checkpoint in safetensors files; see `open_checkpoint`.

    Args:
        path: the folder or file that was opened.
        shards: the opened files; closed with this.
        mmap: see `Checkpoint`.

    Raises:
        CheckpointError: a tensor is in two of the files.
    """

    def __init__(self, path: Path, shards: Sequence[SafetensorsFile], *, mmap: bool = True) -> None:
        super().__init__(path, mmap=mmap)
        self._shards = {shard.path: shard for shard in shards}
        tensors: dict[str, TensorInfo] = {}
        metadata: dict[str, str] = {}
        for shard in shards:
            for name, info in shard.tensors.items():
                if name in tensors:
                    raise CheckpointError(
                        f"{path}: tensor {show(name)} is in two files, {tensors[name].file.name} "
                        f"and {shard.path.name}; open them one at a time"
                    )
                tensors[name] = info
            # Writers put the same pairs in every shard, or pairs of its own tensors.
            metadata = {**shard.metadata, **metadata}
        self._tensors = MappingProxyType(tensors)
        self._metadata = MappingProxyType(metadata)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, mmap: bool = True) -> SafetensorsCheckpoint:
        """Open one file.

        Raises:
            CheckpointError: see `SafetensorsFile`.
        """
        return cls(Path(path), [SafetensorsFile(path)], mmap=mmap)

    @classmethod
    def open_files(cls, folder: Path, names: Sequence[str], *, mmap: bool) -> SafetensorsCheckpoint:
        """Open the named files of a folder as one checkpoint.

        Raises:
            CheckpointError: one is absent, outside the folder or broken, or they overlap.
        """
        return cls(folder, _open_all(folder, names), mmap=mmap)

    @classmethod
    def open_index(cls, folder: Path, index: str, *, mmap: bool) -> SafetensorsCheckpoint:
        """Open the shards that an index file of the folder names.

        Raises:
            CheckpointError: see `read_index` and `check_against_index`; a shard is absent.
        """
        where = folder / index
        weight_map = read_index(where, inside(folder, index))
        names = sorted(set(weight_map.values()))
        absent = [name for name in names if not os.path.lexists(folder / name)]
        if absent:
            raise CheckpointError(
                f"{where}: names {len(names)} shards, {len(absent)} of them not in the folder: "
                f"{', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}; download them again"
            )
        shards = _open_all(folder, names)
        try:
            check_against_index(where, weight_map, dict(zip(names, shards, strict=True)))
        except CheckpointError:
            for shard in shards:
                shard.close()
            raise
        return cls(folder, shards, mmap=mmap)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name -> `TensorInfo`, file by file and in file order."""
        return self._tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        """`__metadata__` of all files; where two disagree, that of the first."""
        return self._metadata

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in order."""
        return tuple(self._shards)

    def raw_file(self, info: TensorInfo) -> RawFile:
        """The open file that holds a tensor's bytes."""
        return self._shards[info.file].raw

    def is_current(self) -> bool:
        """Whether the files that were opened still have their names."""
        return all(shard.raw.is_current() for shard in self._shards.values())

    def close(self) -> None:
        """Close the files. Tensors that were read stay valid; reading more raises."""
        for shard in self._shards.values():
            shard.close()


def _open_all(folder: Path, names: Sequence[str]) -> list[SafetensorsFile]:
    with ExitStack() as opened:
        shards = []
        for name in names:
            plain = plain_name(name, str(folder))
            shards.append(SafetensorsFile(folder / plain, real=inside(folder, plain)))
            opened.callback(shards[-1].close)
        opened.pop_all()
    return shards
