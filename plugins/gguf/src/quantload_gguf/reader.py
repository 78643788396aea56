"""`GgufFile`: the tensors and metadata of a GGUF model, whole or split."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from quantload.checkpoint.base import Checkpoint
from quantload.checkpoint.rawfile import RawFile
from quantload.errors import CheckpointError, QuantloadError
from quantload_gguf.container import Field, GgufTensor, Header, read_header
from quantload_gguf.container.header import DEFAULT_ALIGNMENT
from quantload_gguf.container.split import check_parts, parts_of
from quantload_gguf.origin import Origin

if TYPE_CHECKING:
    import torch

    from quantload.checkpoint.tensorinfo import TensorInfo
    from quantload_gguf.weight import GgufWeight


class GgufFile(Checkpoint):
    """An open GGUF model: its metadata, and tensors that are read when asked for.

    Attributes:
        fields: the metadata with the types it is stored in.
        metadata: the metadata as plain values.
        alignment: of the tensors, in bytes.
        big_endian: whether the file is; what `read` gives never is.
        problem: why the file is not the model it claims to be, once that is known.
    """

    def __init__(
        self, path: Path, parts: list[tuple[RawFile, Header]], *, mmap: bool = True
    ) -> None:
        super().__init__(path, mmap=mmap)
        self._parts = parts
        self._raw = {raw.path: raw for raw, _ in parts}
        self._tensors = {name: t for _, header in parts for name, t in header.tensors.items()}
        first = parts[0][1]
        self.fields: Mapping[str, Field] = MappingProxyType(dict(first.fields))
        self._metadata = MappingProxyType({k: f.value for k, f in first.fields.items()})
        self.alignment = first.alignment
        self.big_endian = first.order == "big"
        self._header = first
        self.problem: QuantloadError | None = None
        self._config: dict[str, Any] | None = None  # kept: it needs the open file

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, mmap: bool = True) -> GgufFile:
        """Open a file and, where it is one of several, the others.

        Args:
            path: the file; any one where the model is split.
            mmap: whether `read` may hand out tensors that lie in the mapped file.

        Raises:
            CheckpointError: a file is absent, is no GGUF file, or is damaged.
        """
        given = Path(path)
        if given.is_dir():
            raise CheckpointError(f"{given}: expected a .gguf file, found a folder")
        opened: list[RawFile] = []
        try:
            opened.append(RawFile(given))
            header = read_header(opened[0])
            parts = []
            for name in parts_of(given, header):
                if name == given:
                    parts.append((opened[0], header))
                    continue
                opened.append(RawFile(name))
                parts.append((opened[-1], read_header(opened[-1])))
            first = parts[0][1]
            if first.alignment != DEFAULT_ALIGNMENT:
                parts[1:] = [(raw, read_header(raw, first)) for raw, _ in parts[1:]]
            check_parts([raw.path for raw, _ in parts], [found for _, found in parts])
            if len({found.order for _, found in parts}) > 1:
                raise CheckpointError(f"{given}: parts of different byte orders are mixed")
            return cls(given, parts, mmap=mmap)
        except BaseException:
            for raw in opened:
                raw.close()
            raise

    @property
    def tensors(self) -> Mapping[str, GgufTensor]:
        """Name -> tensor, file by file and in the order of each file's table."""
        return MappingProxyType(self._tensors)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Key -> number, bool, string or list, in file order."""
        return self._metadata

    @property
    def architecture(self) -> str:
        """`general.architecture`.

        Raises:
            CheckpointError: the file does not say.
        """
        found = self.metadata.get("general.architecture")
        if not isinstance(found, str):
            raise CheckpointError(
                f"{self.path}: expected general.architecture to name one, found {found!r}"
            )
        return found

    @property
    def origin(self) -> Origin:
        """The metadata in a form that can be kept when the file is closed."""
        kinds = frozenset(tensor.ggml_type.name for tensor in self._tensors.values())
        return Origin.of(self.path, self._header, self.architecture, kinds)

    def config(self) -> dict[str, Any]:
        """The `config.json` of the model, made from the metadata.

        Raises:
            UnsupportedOperationError: the architecture is not covered.
            CheckpointError: a setting that the model needs is absent.
        """
        from quantload_gguf.architectures.settings import config_of

        if self.problem is not None:
            raise self.problem
        if self._config is None:
            self._config = config_of(self)
        return copy.deepcopy(self._config)

    def generation_config(self) -> dict[str, Any]:
        """The `generation_config.json` of the model, made from the metadata."""
        from quantload_gguf.architectures.settings import generation_config

        return generation_config(self)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in order."""
        return tuple(raw.path for raw, _ in self._parts)

    def raw_file(self, info: TensorInfo) -> RawFile:
        """The open file that holds a tensor's bytes."""
        return self._raw[info.file]

    def close(self) -> None:
        """Close the files. Tensors that were read stay valid."""
        for raw, _ in self._parts:
            raw.close()

    def info(self, name: str) -> GgufTensor:
        """The `GgufTensor` of a name; see `Checkpoint.info`."""
        found = super().info(name)
        assert isinstance(found, GgufTensor)
        return found

    def read(
        self, name: str, *, rows: slice | None = None, device: str | torch.device = "cpu"
    ) -> torch.Tensor:
        """A tensor, or some of its rows; packed types give uint8 `[..., bytes per row]`.

        See `Checkpoint.read`. Tensors of big-endian files are turned around and so
        have memory of their own.
        """
        import torch

        if not self.big_endian or torch.device(device).type == "meta":
            return super().read(name, rows=rows, device=device)
        buffer = torch.empty(self.info(name).nbytes, dtype=torch.uint8, device="cpu")
        return self.read_into(name, buffer, rows=rows).to(device)

    def read_into(
        self, name: str, buffer: torch.Tensor, *, rows: slice | None = None
    ) -> torch.Tensor:
        """The same, into a buffer; see `Checkpoint.read_into`."""
        found = super().read_into(name, buffer, rows=rows)
        kind = self.info(name).ggml_type
        if self.big_endian and (not kind.packed or self._swapped):
            import torch

            from quantload_gguf.swapping import swap_in_place

            swap_in_place(found.view(-1).view(torch.uint8), kind)
        return found

    @cached_property
    def _swapped(self) -> bool:
        """Whether blocks are in the byte order of the file, which is big-endian."""
        import torch

        from quantload_gguf.swapping import blocks_are_swapped

        def raw(tensor: GgufTensor, rows: slice) -> torch.Tensor:
            buffer = torch.empty(tensor.nbytes, dtype=torch.uint8, device="cpu")
            return Checkpoint.read_into(self, tensor.name, buffer, rows=rows)

        return blocks_are_swapped(self.tensors.values(), raw)

    def weight(self, name: str, dtype: torch.dtype | None = None) -> GgufWeight:
        """A tensor as a packed weight, over the mapped blocks where it can be.

        Args:
            name: a tensor of two dimensions or (experts) three.
            dtype: compute dtype; float32 where None.

        Raises:
            UnsupportedOperationError: its type holds no weights.
        """
        import torch

        from quantload_gguf.weight import GgufWeight

        info, data = self.info(name), self.read(name)
        if not info.ggml_type.packed:
            data = data.view(torch.uint8)
        return GgufWeight.from_blocks(
            data, info.ggml_type, info.shape, dtype=dtype or torch.float32
        )

    def dequantize(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The numbers of a tensor, decoded; float32 unless `dtype` says otherwise.

        Raises:
            UnsupportedOperationError: its type holds no weights.
        """
        import torch

        from quantload_gguf.blocks import dequantize

        info, data = self.info(name), self.read(name)
        if not info.ggml_type.packed:
            return data.to(dtype or torch.float32, copy=True)
        return dequantize(data, info.ggml_type, dtype or torch.float32)


def open_gguf(path: str | os.PathLike[str], *, mmap: bool = True) -> GgufFile:
    """Open a GGUF model for its metadata and its tensors; see `GgufFile.open`."""
    return GgufFile.open(Path(path).expanduser(), mmap=mmap)
