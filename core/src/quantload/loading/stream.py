"""Carrying a plan out: read in file order, convert, place, one step at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quantload.checkpoint.base import Checkpoint
from quantload.checkpoint.blame import file_named
from quantload.checkpoint.tensorinfo import TensorInfo
from quantload.errors import PluginError
from quantload.loading.device_map import CPU, DISK, Place
from quantload.loading.heap import Trimmer
from quantload.loading.offload import OffloadedTensors
from quantload.loading.placing import place_tensor, place_weight, tie
from quantload.loading.plan import Plan
from quantload.loading.progress import Progress, Report
from quantload.loading.staging import MIB, Job, ReadAhead, Ring, row_jobs
from quantload.loading.steps import ConvertStep, Output, PackStep, Step, TensorStep
from quantload.quantizers.weight import WeightQuantizer
from quantload.weights.packed import PackedWeight

if TYPE_CHECKING:
    from typing_extensions import Self

CHUNK = 8 * MIB
"""Bytes converted at a time on the CPU: they are still in its cache when they are used."""
DEVICE_CHUNK = 32 * MIB
"""Bytes sent to an accelerator at a time."""
RING = 64 * MIB
"""Size of the staging buffer, unless a tensor that must be whole is larger."""
DEVICE_READERS = 4
"""Threads that read for an accelerator; on the CPU one keeps ahead of the conversion."""
IN_FLIGHT = 2
"""Copies to an accelerator that may be under way at once."""


def stream(
    model: nn.Module,
    checkpoint: Checkpoint,
    plan: Plan,
    *,
    quantizer: WeightQuantizer | None = None,
    offload: OffloadedTensors | None = None,
    progress: bool | Report | None = None,
) -> None:
    """Load everything a plan names and put it in place.

    Args:
        model: the skeleton with its hosts, as the plan left it.
        checkpoint: what to read from.
        plan: what to do.
        quantizer: packs and quantizes.
        offload: takes what is to be on disk.
        progress: see `Progress`.

    Raises:
        CheckpointError: something cannot be read or packed.
    """
    with ExitStack() as stack:
        bar = stack.enter_context(Progress(plan.nbytes, progress, "loading"))
        runner = stack.enter_context(_Runner(model, checkpoint, plan, quantizer, offload))
        trimmer = Trimmer()
        for step in plan.steps:
            runner.run(step)
            nbytes = sum(info.nbytes for info in step.sources)
            if isinstance(step, PackStep) or (
                isinstance(step, TensorStep) and step.output.spec is not None
            ):
                trimmer.passed(nbytes)
            bar.advance(nbytes)
        tie(model, plan)


class _Runner:
    """Does the steps. All copies to accelerators are complete when it is left."""

    def __init__(
        self,
        model: nn.Module,
        checkpoint: Checkpoint,
        plan: Plan,
        quantizer: WeightQuantizer | None,
        offload: OffloadedTensors | None,
    ) -> None:
        self._model = model
        self._checkpoint = checkpoint
        self._quantizer = quantizer
        self._offload = offload
        jobs = [job for step in plan.steps for job in self._jobs(step)]
        largest = max((job.nbytes for job in jobs), default=0)
        total = sum(job.nbytes + 64 for job in jobs)
        cuda = any(_device(place).type == "cuda" for place in plan.device_map.places.values())
        capacity = min(max(largest + 64, (4 if cuda else 1) * RING), total)
        self._ring = Ring(capacity, pinned=bool(cuda and capacity))
        self._ahead = ReadAhead(checkpoint, jobs, self._ring, workers=DEVICE_READERS if cuda else 1)
        self._copies: deque[torch.cuda.Event] = deque()

    def __enter__(self) -> Self:
        self._ahead.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            while self._copies:
                self._copies.popleft().synchronize()
        finally:
            self._ahead.__exit__(kind, error, trace)

    # -- what is staged: this and `run` follow the same order --------------------------

    def _jobs(self, step: Step) -> Iterator[Job]:
        if isinstance(step, TensorStep):
            if self._whole(step.output):
                yield Job(step.source.name, step.source.nbytes)
            elif not self._as_it_is(step.source, step.output):
                yield from _chunks(step.source, _device(step.output.place))
        elif isinstance(step, ConvertStep):
            place = _device(next(iter(step.outputs.values())).place)
            if step.slots is not None or place != CPU:
                for info in step.sources:
                    yield from _chunks(info, place)
        elif _device(step.place) != CPU:
            for info in step.sources:
                yield from _chunks(info, _device(step.place))

    @staticmethod
    def _whole(output: Output) -> bool:
        """Whether a tensor is staged in one piece: to be quantized on the CPU."""
        return output.spec is not None and _device(output.place) == CPU

    def _as_it_is(self, info: TensorInfo, output: Output) -> bool:
        """Whether the bytes of the file are those of the model."""
        return _device(output.place) == CPU and info.torch_dtype == output.dtype

    # -- the steps -----------------------------------------------------------------------

    def run(self, step: Step) -> None:
        """Read, convert and place."""
        if isinstance(step, TensorStep):
            self._tensor(step.source, step.output)
        elif isinstance(step, ConvertStep):
            self._convert(step)
        else:
            self._pack(step)

    def _tensor(self, info: TensorInfo, output: Output) -> None:
        if self._whole(output):
            staged = self._take()
            self._finish(output, staged.to(output.dtype))
            self._ahead.give_back()
        elif self._as_it_is(info, output):
            if output.place == DISK and self._offload is not None:
                self._offload.refer(output.name, self._checkpoint, info)
                meta = torch.empty(output.shape, dtype=output.dtype, device="meta")
                place_tensor(self._model, output.name, meta)
                return
            self._finish(output, self._checkpoint.read(info.name))
        else:
            device = _device(output.place)
            # An accelerator casts faster than the bus carries the wider type.
            dtype = output.dtype if device == CPU else info.torch_dtype
            tensor = torch.empty(info.torch_shape, dtype=dtype, device=device)
            self._fill(info, tensor)
            self._finish(output, tensor.to(output.dtype))

    def _convert(self, step: ConvertStep) -> None:
        first = next(iter(step.outputs.values()))
        device = _device(first.place)
        if step.slots is not None:
            tensor = torch.empty(first.shape, dtype=first.dtype, device=device)
            for info in step.sources:
                self._fill(info, tensor[step.slots[info.name]])
            self._finish(first, tensor)
            return
        stored = [self._source(info, device) for info in step.sources]
        lying = [_extent(tensor) for tensor in stored]
        sources = {i.name: t.to(first.dtype) for i, t in zip(step.sources, stored, strict=True)}
        stored.clear()
        if getattr(step.conversion, "on_cpu", False):
            sources = {name: tensor.cpu() for name, tensor in sources.items()}
        results = step.conversion(sources)
        kept = []
        for name, output in step.outputs.items():
            place = _device(output.place)
            tensor = results[name].to(device=place, dtype=output.dtype).contiguous()
            self._finish(output, tensor)
            kept.append(tensor)
        self._let_go(step, lying, kept)

    def _pack(self, step: PackStep) -> None:
        assert self._quantizer is not None
        device = _device(step.place)
        tensors = {key: self._source(info, device) for key, info in step.tensors.items()}
        known = {f"{step.spec.name}.{key}": info for key, info in step.tensors.items()}
        with file_named(known):
            weight = self._quantizer.pack(step.spec, tensors)
        kept = [*weight.parameters(), *weight.buffers()]
        self._keep(step.spec.name, step.place, weight)
        self._let_go(step, [_extent(tensor) for tensor in tensors.values()], kept)

    def _source(self, info: TensorInfo, device: torch.device) -> Tensor:
        """A whole tensor on a device: mapped on the CPU, sent through the ring elsewhere."""
        if device == CPU:
            return self._checkpoint.read(info.name)
        tensor = torch.empty(info.torch_shape, dtype=info.torch_dtype, device=device)
        self._fill(info, tensor)
        return tensor

    def _finish(self, output: Output, tensor: Tensor) -> None:
        """Quantize a float tensor where that is asked for, and put the result in place."""
        if output.spec is None:
            if output.place == DISK:
                assert self._offload is not None
                self._offload.write(output.name, tensor)
                tensor = tensor.to("meta")
            place_tensor(self._model, output.name, tensor)
            return
        assert self._quantizer is not None
        if output.spec.kind == "conv1d":
            tensor = tensor.t().contiguous()
        weight = self._quantizer.quantize(output.spec, tensor, _device(output.place))
        if any(self._ring.holds(part) for part in (*weight.parameters(), *weight.buffers())):
            raise PluginError(
                f"{self._quantizer.quant_method}: quantize() kept memory of the tensor it was "
                f"given for {output.spec.name}, which is a buffer that is used again"
            )
        self._keep(output.spec.name, output.place, weight)

    def _keep(self, name: str, place: Place, weight: PackedWeight) -> None:
        if place == DISK:
            assert self._offload is not None
            for key, tensor in weight.storage().items():
                self._offload.write(f"{name}.weight.{key}", tensor)
            weight = weight.to("meta")
        place_weight(self._model, name, weight)

    def _let_go(self, step: Step, lying: list[range], kept: list[Tensor]) -> None:
        """Give back the mapped pages of sources, which lay there, if nothing kept does."""
        if not self._checkpoint.mmap:
            return
        addresses = [tensor.data_ptr() for tensor in kept]
        for info, extent in zip(step.sources, lying, strict=True):
            if info.aligned and not any(address in extent for address in addresses):
                self._checkpoint.release(info.name)

    # -- bytes on their way ----------------------------------------------------------------

    def _fill(self, info: TensorInfo, target: Tensor) -> None:
        """Send a tensor of the checkpoint into a (part of a) tensor, chunk by chunk."""
        for job in _chunks(info, target.device):
            view = target if job.rows is None else target[job.rows]
            chunk = self._take().view(view.shape)
            if target.device.type != "cuda":
                view.copy_(chunk)
                self._ahead.give_back()
                continue
            view.copy_(chunk.to(target.device, non_blocking=True))
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own
            event.record(torch.cuda.current_stream(target.device))
            self._copies.append(event)
            if len(self._copies) > IN_FLIGHT:
                self._settle_oldest()

    def _take(self) -> Tensor:
        while self._copies and not self._ahead.waiting:
            self._settle_oldest()  # the buffer is full of what is on its way
        return self._ahead.take()

    def _settle_oldest(self) -> None:
        self._copies.popleft().synchronize()
        self._ahead.give_back()


def _chunks(info: TensorInfo, device: torch.device) -> Iterator[Job]:
    return row_jobs(info, CHUNK if device == CPU else DEVICE_CHUNK)


def _extent(tensor: Tensor) -> range:
    """The addresses of a tensor's bytes; none where they are not on the CPU."""
    start = tensor.data_ptr() if tensor.device == CPU else 0
    return range(start, start + tensor.nbytes) if start else range(0)


def _device(place: Place) -> torch.device:
    """Where a tensor is made: what goes to disk is made on the CPU."""
    return CPU if isinstance(place, str) else place
