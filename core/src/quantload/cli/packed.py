"""The packed modules of a checkpoint: what they are, and which kernel would run them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from quantload.errors import NoKernelError, QuantloadError
from quantload.registry.requirements import check_requirement

if TYPE_CHECKING:
    import torch

    from quantload.cli.contents import Contents
    from quantload.quantizers.spec import ModuleSpec
    from quantload.quantizers.weight import WeightQuantizer


@dataclass
class Group:
    """Packed modules that are alike.

    Attributes:
        kind: of the modules.
        layout: class of the weight.
        params: the method's parameters that all of them have.
        modules: how many.
        parameters: of all; 0 where their shapes are not known.
        disk_bytes: their tensors in the files.
        memory_bytes: their packed weights, loaded.
        kernels: device type -> the kernels that would be chosen and for how many
            modules, with the reasons for one of them.
    """

    kind: str
    layout: str
    params: dict[str, Any]
    modules: int = 0
    parameters: int = 0
    disk_bytes: int = 0
    memory_bytes: int = 0
    kernels: dict[str, dict[str, KernelChoice]] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """For programs."""
        kernels = {
            device: {name: choice.as_json() for name, choice in chosen.items()}
            for device, chosen in self.kernels.items()
        }
        return {**vars(self), "params": _json(self.params), "kernels": kernels}


@dataclass
class KernelChoice:
    """A kernel, how many modules it would run, and why it and not another."""

    modules: int = 0
    report: list[tuple[str, bool, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """For programs."""
        report = [{"candidate": n, "ok": ok, "reason": reason} for n, ok, reason in self.report]
        return {"modules": self.modules, "report": report}


def specs_of(
    contents: Contents, quantizer: WeightQuantizer, dtype: torch.dtype
) -> dict[str, ModuleSpec]:
    """Every packed module, with its shape where headers or the model's class tell it.

    Raises:
        CheckpointError: the tensors contradict each other.
    """
    specs = quantizer.claims(contents.headers)
    if any(spec.shape is None for spec in specs.values()):
        known = _shapes_of_model(contents, quantizer)
        specs = {n: spec.replace(shape=spec.shape or known.get(n)) for n, spec in specs.items()}
    return {name: spec.replace(dtype=spec.dtype or dtype) for name, spec in specs.items()}


def _shapes_of_model(
    contents: Contents, quantizer: WeightQuantizer
) -> dict[str, tuple[int, ...] | None]:
    """Checkpoint module -> logical shape, from a model without memory; {} where there is none."""
    if contents.opened is None or not contents.config or not check_requirement("transformers>=5"):
        return {}
    from quantload.integrations.transformers.classes import load_config, model_class
    from quantload.integrations.transformers.skeleton import build, resolve_dtype
    from quantload.integrations.transformers.traits import traits_of
    from quantload.loading.evidence import packed_modules
    from quantload.loading.report import LoadReport
    from quantload.loading.skeleton import tensors_of

    opened, folder = contents.opened, str(contents.opened.folder)
    try:
        config = load_config(opened, False)
        dtype = resolve_dtype(config, opened, None)
        model = build(model_class(config, folder, None, False), config, dtype)
        found = packed_modules(
            model,
            opened,
            quantizer,
            traits_of(model, dtype),
            tensors_of(model),
            LoadReport(contents.source),
        )
    except QuantloadError:
        return {}  # code that is not trusted, or no class for it: the headers have to do
    return {found.names.get(module, module): spec.shape for module, spec in found.specs.items()}


def groups_of(
    specs: Mapping[str, ModuleSpec], quantizer: WeightQuantizer, devices: Iterable[str]
) -> list[Group]:
    """The modules by kind, layout and parameters, largest first."""
    devices = sorted(devices)
    found: dict[tuple[str, str, str], Group] = {}
    for spec in specs.values():
        stored = sum(header.nbytes for key, header in spec.tensors.items() if key != "bias")
        layout, memory, asked = "", stored, None
        if spec.shape is not None:
            weight = quantizer.empty(spec)
            layout, memory, asked = type(weight).__name__, weight.nbytes, weight
        params = dict(spec.params)
        key = (spec.kind, layout, repr(sorted(params.items(), key=str)))
        group = found.setdefault(key, Group(spec.kind, layout, params))
        group.modules += 1
        group.parameters += prod(spec.shape) if spec.shape is not None else 0
        group.disk_bytes += stored
        group.memory_bytes += memory
        if asked is not None:
            for device in devices:
                _choose(group, asked, device)
    return sorted(found.values(), key=lambda group: -group.disk_bytes)


def _choose(group: Group, weight: Any, device: str) -> None:
    import torch

    from quantload.kernels import KernelSpec, select

    try:
        _, selection = select(KernelSpec.of(weight, torch.device(device)))
    except NoKernelError as error:
        name, report = "none", [("none", False, str(error))]
    else:
        name = selection.chosen
        report = [(n, v.ok, v.reason) for n, v in selection.report]
    chosen = group.kernels.setdefault(device, {}).setdefault(name, KernelChoice(report=report))
    chosen.modules += 1


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_json(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
