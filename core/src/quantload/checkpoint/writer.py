"""Saving: tensors into shards, an index, the files beside them, and all of it at once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Union

from quantload.checkpoint.arguments import parse_size, text_pairs
from quantload.checkpoint.base import CONFIG
from quantload.checkpoint.header import MAX_HEADER_BYTES
from quantload.checkpoint.index import read_index
from quantload.checkpoint.locate import PART, SUFFIX
from quantload.checkpoint.paths import plain_name, show
from quantload.checkpoint.replace import WORK, FolderReplacement
from quantload.checkpoint.shards import RESERVE, ShardWriter, entry_bound
from quantload.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

Content = Union[bytes, str, "os.PathLike[str]"]
"""Of a companion file: bytes, text, or the path of a file to copy."""


DRAFT = ".quantload-shard-"
OURS = (WORK, DRAFT)


class CheckpointWriter:
    """Writes a checkpoint folder, tensor by tensor, that appears as a whole or not at all.

    As a context manager it commits when the block ends and changes nothing when it
    raises. Only one tensor is held at a time. Names are written in the order of
    `add`, odd-sized tensors at the end of their file; a tensor given under two
    names is written twice.

    What happens to the files of a folder that exists: those with the names of new
    files are replaced; weights of the same base name (shards, index, and shards
    that the old index names) and those in `remove` go away; all others stay.

    Args:
        folder: where the checkpoint is to be.
        max_shard_size: bytes of a file, a number or "5GB" (10^9), "4GiB" (2^30); a
            single tensor may be larger.
        metadata: text pairs for the header of every file.
        base_name: the files are `base_name.safetensors` or its shards and index.
        remove: further names of the old folder that the new checkpoint replaces.
        sync: wait until everything is on the disk, so that it survives a power cut.
        expected_tensors: a guess at their number; saves a copy of the first file
            where there are ten thousands.

    Raises:
        CheckpointError: an argument is wrong, or the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        max_shard_size: int | str = "5GB",
        metadata: Mapping[str, str] | None = None,
        base_name: str = "model",
        remove: Iterable[str] = (),
        sync: bool = True,
        expected_tensors: int = 0,
    ) -> None:
        self._max = parse_size(max_shard_size)
        self._metadata = text_pairs({"format": "pt"} if metadata is None else metadata)
        self._base = plain_name(base_name, "base_name")
        self._remove = [plain_name(name, "remove") for name in remove]
        self._sync = sync
        self._committed = False
        self._reserve = max(RESERVE, expected_tensors * entry_bound("x" * 40))
        self._shard: ShardWriter | None = None
        self._done: list[ShardWriter] = []
        self._foreign = ""
        self._names: set[str] = set()
        self._companions: set[str] = set()
        self.folder = Path(folder)
        try:
            self._place = FolderReplacement(folder)
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be written ({error})") from error

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write a tensor.

        Raises:
            CheckpointError: the name is taken or no text, the tensor cannot be
                stored (see `bytes_of`), or writing failed.
        """
        if name in self._names or name == "__metadata__":
            raise CheckpointError(f"{self.folder}: tensor name {show(name)} is taken already")
        try:
            name.encode("utf-8")
        except (AttributeError, UnicodeEncodeError) as error:
            raise CheckpointError(f"{self.folder}: tensor name {show(name)} is no text") from error
        from quantload.checkpoint.bytesof import bytes_of

        dtype, shape, data = bytes_of(name, tensor)
        try:
            self._room_for(name, data.nbytes).add(name, dtype, shape, data)
        except OSError as error:
            raise self._failed(error) from error
        self._names.add(name)

    def add_companion(self, name: str, content: Content) -> None:
        """Put a file beside the weights.

        Args:
            name: its name, relative to the folder; `/` leads into a subfolder.
            content: bytes, text (written as UTF-8), or the path of a file to copy.

        Raises:
            CheckpointError: the name is taken or not a plain one, or writing failed.
        """
        plain_name(name, f"{self.folder}: companion")
        if name in self._companions or name.startswith(OURS) or self._is_weights(name):
            raise CheckpointError(f"{self.folder}: the file name {show(name)} is taken already")
        self._companions.add(name)
        path = self._place.new / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, (bytes, str)):
                path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
            else:
                with Path(content).open("rb") as source, path.open("xb") as copy:
                    shutil.copyfileobj(source, copy)
        except OSError as error:
            raise self._failed(error) from error

    def add_weights(self, name: str, write: Callable[[Path], None]) -> None:
        """Put a file of another format where the weights are; tensors are not added then.

        Args:
            name: its name.
            write: called with the path that it is to make.

        Raises:
            CheckpointError: the name is taken or not a plain one, or writing failed.
        """
        plain_name(name, f"{self.folder}: weights")
        if name in self._companions or name.startswith(OURS) or self._names:
            raise CheckpointError(f"{self.folder}: the file name {show(name)} is taken already")
        try:
            write(self._place.new / name)
        except OSError as error:
            raise self._failed(error) from error
        self._foreign = name

    def commit(self) -> Path:
        """Finish the files and put the checkpoint in place; returns its folder.

        Doing it again does nothing.

        Raises:
            CheckpointError: see `FolderReplacement.commit`.
        """
        if self._committed:
            return self._place.target
        try:
            self._close_shard()
            entry = self._name_shards()
            stale = self._stale()
            self._place.commit(entries=[entry, CONFIG], remove=stale, sync=self._sync)
        except OSError as error:
            raise self._failed(error) from error
        self._committed = True
        return self._place.target

    def abort(self) -> None:
        """Leave everything as it was; after `commit()` it does nothing."""
        if self._shard is not None:
            self._shard.abandon()
        self._place.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.abort()

    def _room_for(self, name: str, nbytes: int) -> ShardWriter:
        shard = self._shard
        if shard is not None and shard.names:
            full = shard.nbytes + nbytes > self._max
            if full or shard.header_bound + entry_bound(name) > MAX_HEADER_BYTES:
                self._close_shard()
        if self._shard is None:
            path = self._place.new / f"{DRAFT}{len(self._done)}"
            self._shard = ShardWriter(path, self._metadata, self._reserve)
        return self._shard

    def _close_shard(self) -> None:
        if self._shard is not None:
            length = self._shard.close()
            self._reserve = max(self._reserve, length * 5 // 4)
            self._done.append(self._shard)
            self._shard = None

    def _name_shards(self) -> str:
        """Give the files their names now that their number is known; returns the first to read."""
        if self._foreign:
            return self._foreign
        if not self._done:
            self._room_for("", 0)
            self._close_shard()
        single = f"{self._base}{SUFFIX}"
        if len(self._done) == 1:
            self._done[0].path.rename(self._place.new / single)
            return single
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(self._done, 1):
            file = f"{self._base}-{number:05d}-of-{len(self._done):05d}{SUFFIX}"
            shard.path.rename(self._place.new / file)
            weight_map.update(dict.fromkeys(shard.names, file))
        index = {
            "metadata": {"total_size": sum(shard.nbytes for shard in self._done)},
            "weight_map": dict(sorted(weight_map.items())),
        }
        name = f"{single}.index.json"
        text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
        (self._place.new / name).write_text(text, encoding="utf-8")
        return name

    def _is_weights(self, name: str) -> bool:
        part = PART.fullmatch(name)
        base = part["base"] if part else name.removesuffix(SUFFIX)
        return (base == self._base and name.endswith(SUFFIX)) or name == self._index_name

    @property
    def _index_name(self) -> str:
        return f"{self._base}{SUFFIX}.index.json"

    def _stale(self) -> list[str]:
        """Weights of the old checkpoint, entry files first."""
        target = self._place.target
        if not target.is_dir():
            return []
        found = {entry.name for entry in target.iterdir() if self._is_weights(entry.name)}
        if self._index_name in found:
            # An index that cannot be read goes away, and names nothing that could.
            with contextlib.suppress(CheckpointError):
                found.update(read_index(target / self._index_name).values())
        return sorted({*found, *self._remove})

    def _failed(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self.folder}: saving failed ({error}); nothing was changed there")


def save_checkpoint(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor | Callable[[], torch.Tensor]]
    | Iterable[tuple[str, torch.Tensor]],
    *,
    companions: Mapping[str, Content] | None = None,
    max_shard_size: int | str = "5GB",
    metadata: Mapping[str, str] | None = None,
    base_name: str = "model",
    remove: Iterable[str] = (),
    sync: bool = True,
) -> Path:
    """Save tensors and the files beside them as a checkpoint folder; see `CheckpointWriter`.

    Args:
        folder: where the checkpoint is to be; replaced as a whole if it exists.
        tensors: a mapping of name to tensor, or to a function that makes it (called
            when its turn comes, and let go of before the next one); or pairs.
        companions: file name -> bytes, text, or the path of a file to copy.
        max_shard_size: bytes of a file; see `CheckpointWriter`.
        metadata: text pairs for the header of every file.
        base_name: the name of the weights without suffix.
        remove: further names of the old folder that the new checkpoint replaces.
        sync: wait until everything is on the disk.

    Returns:
        The folder.

    Raises:
        CheckpointError: it could not be saved; then nothing has changed.
    """
    with CheckpointWriter(
        folder,
        max_shard_size=max_shard_size,
        metadata=metadata,
        base_name=base_name,
        remove=remove,
        sync=sync,
        expected_tensors=len(tensors) if isinstance(tensors, Mapping) else 0,
    ) as writer:
        for name, content in (companions or {}).items():
            writer.add_companion(name, content)
        for name, tensor in _made(tensors) if isinstance(tensors, Mapping) else tensors:
            writer.add(name, tensor)
            del tensor
        return writer.commit()


def _made(
    tensors: Mapping[str, torch.Tensor | Callable[[], torch.Tensor]],
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in tensors.items():
        yield name, value() if callable(value) else value
