"""Weights that are on disk while they are not used, and the hooks that fetch them."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantload.checkpoint.base import Checkpoint
from quantload.checkpoint.rawfile import RawFile
from quantload.checkpoint.tensorinfo import TensorInfo
from quantload.errors import DeviceMapError, UnsupportedOperationError
from quantload.loading.device_map import CPU, DISK, DeviceMap
from quantload.loading.plan import Plan
from quantload.loading.steps import ConvertStep, PackStep, Step, TensorStep

ALIGNMENT = 64


@dataclass(frozen=True)
class _Written:
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    nbytes: int


class OffloadedTensors(Mapping[str, Tensor]):
    """Tensors by name, read from disk each time they are asked for.

    What needs no conversion stays in the checkpoint's own files. Everything else is
    appended, byte for byte, to one file in `folder`, which is removed when the last
    user of this object is gone.

    Args:
        folder: where to write; None where nothing has to be written.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self._folder = folder
        self._writer: FileIO | None = None
        self._reader: RawFile | None = None
        self._end = 0
        self._found: dict[str, tuple[Checkpoint, TensorInfo] | _Written] = {}

    def refer(self, name: str, checkpoint: Checkpoint, info: TensorInfo) -> None:
        """Take a tensor from the checkpoint as it is; the checkpoint must stay open."""
        self._found[name] = (checkpoint, info)

    def write(self, name: str, tensor: Tensor) -> None:
        """Append a CPU tensor to the file.

        Raises:
            DeviceMapError: the folder cannot be written to.
        """
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        padding = -self._end % ALIGNMENT
        try:
            writer = self._writer or self._open()
            for view in (memoryview(bytes(padding)), flat.numpy().data):
                while view.nbytes:
                    view = view[writer.write(view) :]
        except OSError as error:
            raise DeviceMapError(
                f"offload_folder={os.fspath(self._folder or '')!r}: {name} cannot be written there "
                f"({error.strerror})"
            ) from error
        start = self._end + padding
        self._found[name] = _Written(start, tensor.dtype, tuple(tensor.shape), flat.nbytes)
        self._end = start + flat.nbytes

    def _open(self) -> FileIO:
        assert self._folder is not None
        folder = Path(self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        number, path = tempfile.mkstemp(prefix="quantload-", suffix=".offload", dir=folder)
        self._writer = FileIO(number, "wb")
        self._reader = RawFile(Path(path))
        weakref.finalize(self, _remove, self._writer, self._reader, path)
        return self._writer

    def alias(self, name: str, other: str) -> None:
        """Let `name` and everything below it be what `other` is."""
        for key in list(self._found):
            if key == other or key.startswith(f"{other}."):
                self._found[name + key[len(other) :]] = self._found[key]

    def uses(self, checkpoint: Checkpoint) -> bool:
        """Whether tensors are read from this checkpoint, which must then stay open."""
        return any(
            isinstance(where, tuple) and where[0] is checkpoint for where in self._found.values()
        )

    def __getitem__(self, name: str) -> Tensor:
        where = self._found[name]
        if isinstance(where, tuple):
            checkpoint, info = where
            buffer = torch.empty(info.nbytes, dtype=torch.uint8)
            return checkpoint.read_into(info.name, buffer)
        assert self._reader is not None
        flat = torch.empty(where.nbytes, dtype=torch.uint8)
        self._reader.read_into(where.offset, flat.numpy().data)
        return flat.view(where.dtype).view(where.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __deepcopy__(self, memo: dict[int, Any]) -> OffloadedTensors:
        return self  # it never changes after loading

    def __reduce__(self) -> str:
        raise UnsupportedOperationError(
            "a model with weights offloaded to disk cannot be pickled; "
            "use quantload.save_model(model, folder)"
        )


def _remove(writer: FileIO, reader: RawFile, path: str) -> None:
    writer.close()
    reader.close()
    with contextlib.suppress(OSError):
        Path(path).unlink()


def offload_target(plan: Plan, folder: str | os.PathLike[str] | None) -> OffloadedTensors | None:
    """What takes the tensors that a plan sends to disk; None where it sends none.

    Raises:
        DeviceMapError: something has to be written and there is no folder for it.
    """
    if DISK not in plan.device_map.places.values():
        return None
    if folder is None:
        for step in plan.steps:
            name, why = _must_be_written(step)
            if why:
                raise DeviceMapError(
                    f'device_map sends {name!r} to "disk", and it {why}, so it has to be written '
                    f"anew: give offload_folder="
                )
    return OffloadedTensors(folder)


def _must_be_written(step: Step) -> tuple[str, str]:
    """Name of what a step cannot leave in the checkpoint's file, and why; "" if nothing."""
    if isinstance(step, PackStep):
        return step.spec.name, "is packed" if step.place == DISK else ""
    outputs = [step.output] if isinstance(step, TensorStep) else list(step.outputs.values())
    for output in outputs:
        if output.place != DISK:
            continue
        if output.spec is not None:
            return output.name, "is quantized while loading"
        if isinstance(step, ConvertStep):
            return output.name, "is put together from several tensors of the checkpoint"
        if step.source.torch_dtype != output.dtype:
            return output.name, f"is converted to {output.dtype}"
    return "", ""


def dispatch(model: nn.Module, device_map: DeviceMap, offload: OffloadedTensors | None) -> None:
    """Give a model whose modules are in several places the hooks that move what flows.

    Offloaded modules get their weights, byte for byte, just before they run.
    """
    from accelerate import dispatch_model

    weights: dict[str, Any] = dict.fromkeys(offload or ())
    if device_map.main != CPU:
        state = model.state_dict()
        weights.update({name: t for name, t in state.items() if device_map.place(name) == CPU})
    with warnings.catch_warnings():
        # Tensors that a module owns beside its children are in the map too.
        warnings.filterwarnings("ignore", "The following device_map keys do not match")
        dispatch_model(
            model,
            device_map=device_map.as_dict(),
            state_dict=_Weights(weights, offload),
            offload_index={},
            skip_keys=getattr(model, "_skip_keys_device_placement", None),
        )


class _Weights(dict[str, Any]):
    """Tensors in memory as they are, those on disk when they are asked for."""

    def __init__(self, found: dict[str, Any], offload: OffloadedTensors | None) -> None:
        super().__init__(found)
        self._offload = offload

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor | None = super().__getitem__(name)
        if found is None:
            assert self._offload is not None
            return self._offload[name]
        return found


@contextlib.contextmanager
def fetched(module: nn.Module) -> Iterator[None]:
    """Have the offloaded tensors of a module (its own, not its children's) for a while."""
    hook = getattr(module, "_hf_hook", None)
    if hook is None:
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, ())
