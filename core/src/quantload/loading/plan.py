"""The whole load, decided from headers: what is read, what it becomes, where it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantload.checkpoint.base import Checkpoint
from quantload.loading import tying
from quantload.loading.device_map import DeviceMap, resolve_device_map
from quantload.loading.evidence import Evidence, modules_to_quantize, packed_modules
from quantload.loading.experts import take_apart
from quantload.loading.extras import wrap_modules
from quantload.loading.matching import Match, match
from quantload.loading.names import Route
from quantload.loading.report import LoadReport
from quantload.loading.sharing import Sharing, alias, share
from quantload.loading.skeleton import put_hosts, tensors_of
from quantload.loading.steps import ConvertStep, Output, PackStep, Step, TensorStep
from quantload.loading.traits import Traits
from quantload.quantizers.base import HfQuantizer
from quantload.quantizers.spec import ModuleSpec
from quantload.quantizers.weight import WeightQuantizer

HOST_CLASSES = ("QuantizedLinear", "QuantizedEmbedding", "QuantizedExperts")


@dataclass
class Decision:
    """What a checkpoint and a model make of each other, before anything has a place.

    Attributes:
        expected: the model's tensors on meta, by name.
        evidence: the modules that are packed in the checkpoint.
        found: the routes of float tensors that lead somewhere.
        ties: which tensors share their bytes.
        fresh: float modules that are quantized while loading -> spec.
        specs: `fresh` and those of `evidence`, completed by what shares with them.
        sharing: which objects of the model are one.
        report: how checkpoint and model differ.
    """

    expected: dict[str, Tensor]
    evidence: Evidence
    found: Match
    ties: tying.Ties
    fresh: dict[str, ModuleSpec]
    specs: dict[str, ModuleSpec]
    sharing: Sharing
    report: LoadReport

    @property
    def names(self) -> dict[str, str]:
        """Model name -> the checkpoint's, of tensors used as they are and packed modules."""
        return {**_origins(self.found.routes), **self.evidence.names}

    @property
    def groups(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        """Model names -> checkpoint names, of tensors that are converted together."""
        routes = self.found.routes
        return {tuple(r.targets): r.sources for r in routes if r.conversion is not None}


@dataclass
class Plan:
    """What a load will do.

    Attributes:
        steps: in the order of the files.
        report: how checkpoint and model differ.
        device_map: the place of every tensor.
        ties: which tensors share their bytes.
        sharing: which objects of the model are one.
        specs: module -> spec, of every module that will be packed.
        names: model name -> the checkpoint's, for tensors used as they are and for
            packed modules.
        groups: model names -> checkpoint names, of tensors that are converted together.
        dtypes: model name -> the dtype of the float tensor.
    """

    steps: list[Step]
    report: LoadReport
    device_map: DeviceMap
    ties: tying.Ties
    sharing: Sharing
    specs: dict[str, ModuleSpec]
    names: dict[str, str]
    groups: dict[tuple[str, ...], tuple[str, ...]]
    dtypes: dict[str, torch.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is read."""
        return sum(info.nbytes for step in self.steps for info in step.sources)


def make_plan(
    model: nn.Module,
    checkpoint: Checkpoint,
    *,
    traits: Traits,
    quantizer: HfQuantizer | None = None,
    device_map: object = None,
    max_memory: Mapping[Any, int | str] | None = None,
    strict: bool = True,
) -> Plan:
    """Decide everything, and give the skeleton its hosts.

    Args:
        model: the skeleton on meta; changed.
        checkpoint: what is to be loaded.
        traits: of the model's class.
        quantizer: the method, if there is one.
        device_map: see `resolve_device_map`.
        max_memory: see `resolve_device_map`.
        strict: whether a difference between checkpoint and model is an error.

    Raises:
        CheckpointError: the checkpoint is not that of this model.
        DeviceMapError: the device map cannot be carried out.
        UnsupportedOperationError: something packed cannot be hosted.
    """
    decided = decide(
        model,
        checkpoint,
        traits=traits,
        quantizer=quantizer,
        settle=lambda report: report.settle(strict),
    )
    found, evidence, sharing = decided.found, decided.evidence, decided.sharing
    specs, report = decided.specs, decided.report
    host(model, quantizer, specs, sharing.modules)
    alias(model, sharing.tensors)
    places = resolve_device_map(
        model,
        device_map,
        max_memory=max_memory,
        no_split=(*traits.no_split, *HOST_CLASSES),
        adjust=quantizer.adjust_max_memory if quantizer is not None else None,
    )
    if quantizer is not None:
        quantizer.validate_environment(device_map=places.as_dict())
    sharing.part(places)
    builder = _Builder(checkpoint, decided.expected, found, decided.fresh, specs, sharing, places)
    steps = [*builder.float_steps(), *builder.pack_steps(evidence)]
    order = {file: index for index, file in enumerate(checkpoint.files)}
    steps.sort(key=lambda step: _position(step, order))
    return Plan(
        steps,
        report,
        places,
        decided.ties,
        sharing,
        specs,
        decided.names,
        decided.groups,
        found.dtypes,
    )


def decide(
    model: nn.Module,
    checkpoint: Checkpoint,
    *,
    traits: Traits,
    quantizer: HfQuantizer | None = None,
    settle: Callable[[LoadReport], None],
) -> Decision:
    """What becomes of every tensor of the checkpoint and of the model, wherever it goes.

    The model gets the wrappers of the method, but no hosts yet.

    Args:
        model: the skeleton on meta; changed.
        checkpoint: what is to be loaded.
        traits: of the model's class.
        quantizer: the method, if there is one.
        settle: called with the differences between checkpoint and model; may raise.

    Raises:
        CheckpointError: the checkpoint is not that of this model.
        UnsupportedOperationError: something packed cannot be hosted.
    """
    report = LoadReport(str(checkpoint.path))
    if quantizer is not None and not isinstance(quantizer, WeightQuantizer):
        quantizer.preprocess_model(model)
    if isinstance(quantizer, WeightQuantizer):
        wrap_modules(model, checkpoint, quantizer, traits)
        traits = take_apart(model, checkpoint, quantizer, traits)
    expected = tensors_of(model)
    evidence = packed_modules(model, checkpoint, quantizer, traits, expected, report)
    found = match(checkpoint, evidence, traits, expected, report)
    packed = {f"{module}.weight" for module in evidence.specs}
    declared = {**tying.shared_parameters(model), **traits.ties}
    known = {n: o for n, o in declared.items() if n in expected and o in expected}
    ties = tying.settle(known, found.provided | packed, packed)
    _note_missing(expected, found, packed, ties, traits, report)
    settle(report)

    for name, source in ties.of.items():
        if source in found.dtypes:
            found.dtypes.setdefault(name, found.dtypes[source])
    have = found.provided | {n for n, s in ties.of.items() if s in found.provided}
    fresh = modules_to_quantize(model, quantizer, evidence, have, found.dtypes, report)
    specs = {**evidence.specs, **fresh}
    sharing = share(model, expected, ties, evidence.specs, specs)
    report.untied = dict(ties.apart)
    report.packed = sorted(specs)
    return Decision(expected, evidence, found, ties, fresh, specs, sharing, report)


def _origins(routes: list[Route]) -> dict[str, str]:
    """Names in the checkpoint of tensors, and of modules by their weights."""
    found = {}
    for route in routes:
        if route.conversion is None:
            target, source = next(iter(route.targets)), route.sources[0]
            found[target] = source
            if target.endswith(".weight") and source.endswith(".weight"):
                found[target.removesuffix(".weight")] = source.removesuffix(".weight")
    return found


def _note_missing(
    expected: Mapping[str, Tensor],
    found: Match,
    packed: set[str],
    ties: tying.Ties,
    traits: Traits,
    report: LoadReport,
) -> None:
    has = found.provided | packed | set(ties.of) | set(report.mismatched)
    follows = {name for names in ties.lost.values() for name in names}
    report.missing = [
        name
        for name in expected
        if name not in has and name not in follows and not traits.missing_allowed(name)
    ]


def host(
    model: nn.Module,
    quantizer: HfQuantizer | None,
    specs: Mapping[str, ModuleSpec],
    shared: Mapping[str, str],
) -> None:
    """Give modules their hosts, with empty packed weights.

    Args:
        model: the skeleton; changed.
        quantizer: the method; one that is no `WeightQuantizer` has its own modules.
        specs: module -> spec.
        shared: those of them that share a packed weight -> its owner.
    """
    if not isinstance(quantizer, WeightQuantizer):
        return
    own = {name: spec for name, spec in specs.items() if name not in shared}
    quantizer.preprocess_model(model, specs=own)
    put_hosts(model, specs, shared)


def _position(step: Step, order: Mapping[Any, int]) -> tuple[int, int]:
    bulk = max(step.sources, key=lambda info: info.nbytes)
    return order.get(bulk.file, len(order)), bulk.offset


@dataclass
class _Builder:
    checkpoint: Checkpoint
    expected: Mapping[str, Tensor]
    found: Match
    fresh: Mapping[str, ModuleSpec]
    specs: Mapping[str, ModuleSpec]
    sharing: Sharing
    places: DeviceMap

    def pack_steps(self, evidence: Evidence) -> Iterator[Step]:
        """One step per packed module, and per copy of one on another device."""
        again = {
            name.removesuffix(".weight"): source.removesuffix(".weight")
            for name, source in self.sharing.copies.items()
        }
        for module, spec in self.specs.items():
            owner = again.get(module, module)
            if module in self.sharing.modules or owner not in evidence.names:
                continue
            origin = evidence.names[owner]
            tensors = {key: self.checkpoint.info(f"{origin}.{key}") for key in spec.tensors}
            yield PackStep(spec, tensors, self.places.place(module))

    def float_steps(self) -> Iterator[Step]:
        """The steps that make float tensors, and those that quantize them."""
        for route in self.found.routes:
            targets = [target for target in route.targets if target in self.found.provided]
            yield self._step(route, {target: self._output(target, target) for target in targets})
            for name, source in self.sharing.copies.items():
                if source in targets:
                    yield self._step(route, {source: self._output(name, source)})

    def _output(self, name: str, source: str) -> Output:
        module = name.removesuffix(".weight")
        place = self.places.place(name)
        if not isinstance(self.expected[name], nn.Parameter) and self.places.offloaded(name):
            place = self.places.main  # buffers are not offloaded
        return Output(
            name,
            place,
            self.found.dtypes.get(name, self.found.dtypes[source]),
            tuple(self.expected[name].shape),
            self.fresh.get(module) if module != name else None,
        )

    def _step(self, route: Route, outputs: dict[str, Output]) -> Step:
        sources = tuple(self.checkpoint.info(name) for name in route.sources)
        if route.conversion is None:
            return TensorStep(sources[0], next(iter(outputs.values())))
        slots = None
        if len(route.targets) == 1:
            slots = route.conversion.slots({info.name: info.torch_shape for info in sources})
        return ConvertStep(sources, route.conversion, outputs, slots)
