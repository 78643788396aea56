"""`GgufModel`: a GGUF file as a checkpoint of a `transformers` model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from quantload.checkpoint.base import Checkpoint
from quantload.checkpoint.tensorinfo import ALIGNMENT
from quantload.errors import QuantloadError, UnsupportedOperationError
from quantload_gguf.architectures import architecture_of
from quantload_gguf.architectures.facts import Facts
from quantload_gguf.architectures.settings import types_config
from quantload_gguf.container import GgufTensor
from quantload_gguf.ggml import ggml_type
from quantload_gguf.origin import Origin
from quantload_gguf.reader import GgufFile

if TYPE_CHECKING:
    import torch

    from quantload.checkpoint.rawfile import RawFile
    from quantload.checkpoint.tensorinfo import TensorInfo
    from quantload_gguf.architectures.table import Rule
    from quantload_gguf.architectures.transforms import Transform


@dataclass(frozen=True, slots=True)
class ModelTensor(GgufTensor):
    """A tensor of the model, made from tensors of the file.

    Attributes:
        sources: their names in the file.
        transform: what is done to them; None where the one source is used as it is.
        place: of the first dimension of the one source, where it is a part of it.
    """

    sources: tuple[str, ...] = ()
    transform: Transform | None = None
    place: int | None = None

    @property
    def aligned(self) -> bool:
        """Whether it lies in the file as it is, and where it can be used."""
        return self.transform is None and self.offset % ALIGNMENT == 0


class GgufModel(Checkpoint):
    """The tensors of a file under the names and in the shapes of the model's class.

    Args:
        file: the open file; closing this closes it.

    Raises:
        UnsupportedOperationError: the architecture is not covered.
        CheckpointError: the metadata does not describe a model.
    """

    def __init__(self, file: GgufFile) -> None:
        super().__init__(file.path, mmap=file.mmap)
        self.file = file
        self.architecture = architecture_of(file)
        self.facts = Facts(file)
        self.model_options = self.architecture.options
        self._tensors = {t.name: t for t in _targets(file, self.facts, self.architecture)}
        _check_types(file)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, mmap: bool = True) -> GgufModel | GgufFile:
        """Open a file as the model it holds; see `GgufFile.open`.

        A file of an architecture that is not covered, or that does not describe a
        model, is opened as what it is: its tensors can be read, and its `config()` says
        why it is no model.
        """
        file = GgufFile.open(path, mmap=mmap)
        try:
            return cls(file)
        except QuantloadError as error:
            file.problem = error
            return file
        except BaseException:
            file.close()
            raise

    @property
    def origin(self) -> Origin:
        """What a model that is loaded from it keeps, so that it can be saved again."""
        return self.file.origin

    @property
    def tensors(self) -> Mapping[str, ModelTensor]:
        """Name in the model -> tensor, in file order."""
        return MappingProxyType(self._tensors)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the file."""
        return self.file.metadata

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in order."""
        return self.file.files

    def raw_file(self, info: TensorInfo) -> RawFile:
        """The open file that holds (the first part of) a tensor."""
        return self.file.raw_file(info)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def config(self) -> dict[str, Any]:
        """The `config.json` of the model, from the metadata.

        Raises:
            CheckpointError: a setting that the model needs is absent.
        """
        found = self.file.config()
        packed = {
            tensor.name.removesuffix(".weight"): tensor.dtype
            for tensor in self.tensors.values()
            if tensor.ggml_type.packed
        }
        if packed:
            found["quantization_config"] = types_config(packed)
        return found

    def generation_config(self) -> dict[str, Any]:
        """The `generation_config.json` of the model, from the metadata."""
        return self.file.generation_config()

    def read(
        self, name: str, *, rows: slice | None = None, device: str | torch.device = "cpu"
    ) -> torch.Tensor:
        """A tensor of the model, or some of its rows; see `Checkpoint.read`."""
        import torch

        info = self.info(name)
        if torch.device(device).type == "meta":
            return super().read(name, rows=rows, device=device)
        if info.place is not None and not self.file.big_endian:
            return super().read(name, rows=rows, device=device)
        if info.transform is None and info.place is None:
            return self.file.read(info.sources[0], rows=rows, device=device)
        return self._made(info, rows).to(device)

    def read_into(
        self, name: str, buffer: torch.Tensor, *, rows: slice | None = None
    ) -> torch.Tensor:
        """The same, into a buffer; see `Checkpoint.read_into`."""
        import torch

        info = self.info(name)
        if info.place is not None and not self.file.big_endian:
            return super().read_into(name, buffer, rows=rows)
        if info.transform is None and info.place is None:
            return self.file.read_into(info.sources[0], buffer, rows=rows)
        made = self._made(info, rows).contiguous()
        view = buffer.reshape(-1).view(torch.uint8)[: made.nbytes].view(made.dtype)
        return view.view(made.shape).copy_(made)

    def release(self, name: str) -> None:
        """Give back the pages of the file that a tensor was made from."""
        info = self.info(name)
        if info.place is not None:
            super().release(name)
            return
        for source in info.sources:
            self.file.release(source)

    def info(self, name: str) -> ModelTensor:
        """The `ModelTensor` of a name; see `Checkpoint.info`."""
        found = super().info(name)
        assert isinstance(found, ModelTensor)
        return found

    def _made(self, info: ModelTensor, rows: slice | None) -> torch.Tensor:
        if info.transform is None:
            assert info.place is not None
            own = slice(info.place, info.place + 1)
            matrix = self.file.read(info.sources[0], rows=own)[0]
            return matrix if rows is None else matrix[rows]
        shapes = [self.file.info(name).shape for name in info.sources]
        part = rows if info.transform.rowwise(shapes) else None
        tensors = [self._source(name, info.ggml_type.packed, part) for name in info.sources]
        wanted = slice(None) if part is not None else rows or slice(None)
        made = info.transform.apply(tensors, wanted, self.facts)
        return made.to(info.torch_dtype)

    def _source(self, name: str, packed: bool, rows: slice | None) -> torch.Tensor:
        """A tensor of the file as blocks or as numbers, in memory of its own."""
        import torch

        from quantload_gguf.blocks import dequantize

        raw = self.file.info(name)
        # Read, not mapped: the pages of the file would stay part of the process.
        buffer = torch.empty(raw.nbytes, dtype=torch.uint8, device="cpu")
        tensor = self.file.read_into(name, buffer, rows=rows)
        return dequantize(tensor, raw.ggml_type) if raw.ggml_type.packed and not packed else tensor


def _check_types(file: GgufFile) -> None:
    """All blocks are of types that hold weights.

    Raises:
        UnsupportedOperationError: those of a tensor are not; it is named.
    """
    for tensor in file.tensors.values():
        if tensor.ggml_type.packed and not tensor.ggml_type.decodable:
            raise UnsupportedOperationError(
                f"{file.path}: tensor {tensor.name} is of the type {tensor.dtype}, which is not "
                f"decoded; convert the model to another type"
            )


def _targets(file: GgufFile, facts: Facts, architecture: Any) -> Iterator[ModelTensor]:
    """Every tensor that the rules make, then those no rule knows, under their own names."""
    made: list[ModelTensor] = []
    used = {pattern.format(i=i) for pattern in architecture.ignored for i in range(facts.blocks)}
    for rule in architecture.rules:
        for layer in range(facts.blocks if "{i}" in rule.target else 1):
            for tensor in _by_rule(file, facts, rule, layer):
                made.append(tensor)
                used.update(tensor.sources)
    made.extend(_tensor(file, name, (name,), None) for name in file.tensors if name not in used)
    order = {path: place for place, path in enumerate(file.files)}
    yield from sorted(made, key=lambda tensor: (order[tensor.file], tensor.offset))


def _by_rule(file: GgufFile, facts: Facts, rule: Rule, layer: int) -> Iterator[ModelTensor]:
    from quantload_gguf.architectures.table import SUFFIXES
    from quantload_gguf.architectures.transforms import EachExpert, EachRow, Share

    if rule.packed is not None and rule.packed != facts.packed_experts(layer):
        return
    if rule.needs and not facts.has(rule.needs.format(i=layer)):
        return
    if rule.excludes and facts.has(rule.excludes.format(i=layer)):
        return
    for suffix in SUFFIXES[:1] if rule.bare else SUFFIXES:
        sources = _sources(facts, rule, layer, suffix)
        if not sources:
            continue
        target = rule.target if rule.bare else rule.target + suffix
        if isinstance(rule.how, EachExpert):
            yield from _experts(file, target.replace("{i}", str(layer)), sources)
        elif isinstance(rule.how, EachRow):
            for row in range(facts.shape(sources[0])[0]):
                name = target.format(i=layer, e=row)
                yield _tensor(file, name, sources, rule.how.at(row))
        else:
            how = rule.how.of(facts) if isinstance(rule.how, Share) else rule.how
            yield _tensor(file, target.format(i=layer), sources, how)


def _experts(file: GgufFile, target: str, sources: tuple[str, ...]) -> Iterator[ModelTensor]:
    """A matrix for each expert: a part of the one source, or a source of its own."""
    if len(sources) > 1:
        for number, source in enumerate(sources):
            yield _tensor(file, target.format(e=number), (source,), None)
        return
    whole = _tensor(file, target, sources, None)
    if len(whole.shape) != 3 or not whole.nbytes:
        return  # no stack: nothing uses it, and it is reported under its own name
    count = whole.shape[0]
    each = whole.nbytes // count
    for number in range(count):
        yield replace(
            whole,
            name=target.format(e=number),
            shape=whole.shape[1:],
            nbytes=each,
            offset=whole.offset + number * each,
            place=number,
        )


def _sources(facts: Facts, rule: Rule, layer: int, suffix: str) -> tuple[str, ...]:
    """The names of the first variant that is all there; none where no variant is."""
    for variant in rule.sources:
        names: list[str] = []
        for name in _named(facts, variant, layer, suffix):
            if not facts.has(name):
                break
            names.append(name)
        else:
            if names:
                return tuple(names)
    return ()


def _named(facts: Facts, variant: tuple[str, ...], layer: int, suffix: str) -> Iterator[str]:
    for pattern in variant:
        each = range(facts.experts) if "{e}" in pattern else range(1)
        for expert in each:
            yield pattern.format(i=layer, e=expert) + suffix


def _tensor(
    file: GgufFile, name: str, sources: tuple[str, ...], how: Transform | None
) -> ModelTensor:
    infos = [file.info(source) for source in sources]
    kind = infos[0].ggml_type
    if how is not None and kind.packed and how.packed == "kept":
        how = None
    mixed = any(info.ggml_type != kind for info in infos)
    if how is not None and (mixed or (kind.packed and how.packed == "decoded")):
        kind = ggml_type("F32")
    shape = how.shape([info.shape for info in infos]) if how is not None else infos[0].shape
    count = 1
    for size in shape:
        count *= size
    return ModelTensor(
        name=name,
        dtype=kind.name,
        shape=shape,
        nbytes=count // kind.elements * kind.nbytes,
        file=infos[0].file,
        offset=infos[0].offset,
        ggml_type=kind,
        sources=sources,
        transform=how,
    )
