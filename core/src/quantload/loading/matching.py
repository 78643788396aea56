"""Checkpoint against model: what fits where, before a byte is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quantload.checkpoint.base import Checkpoint
from quantload.errors import CheckpointError
from quantload.loading.evidence import Evidence
from quantload.loading.names import Route
from quantload.loading.report import LoadReport
from quantload.loading.traits import Traits


@dataclass
class Match:
    """The routes that lead somewhere.

    Attributes:
        routes: in the order of the checkpoint.
        provided: tensors of the model that a route leads to.
        dtypes: model name -> the dtype it is to be loaded in.
    """

    routes: list[Route] = field(default_factory=list)
    provided: set[str] = field(default_factory=set)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)


def match(
    checkpoint: Checkpoint,
    evidence: Evidence,
    traits: Traits,
    expected: Mapping[str, Tensor],
    report: LoadReport,
) -> Match:
    """Find a place for every float tensor, and note those for which there is none.

    Args:
        checkpoint: what is to be loaded.
        evidence: what is packed; its tensors are left alone.
        traits: of the model's class.
        expected: the model's tensors (on meta), by name.
        report: where unexpected and ill-fitting tensors are noted.

    Raises:
        CheckpointError: tensors that belong together do not fit together, or a weight is
            there packed and float.
    """
    sources = {
        name: torch.empty(info.torch_shape, dtype=info.torch_dtype, device="meta")
        for name, info in checkpoint.tensors.items()
        if name not in evidence.taken
    }
    found = Match()
    for route in traits.names.routes(sources, expected):
        _refuse_twofold(route, evidence, checkpoint)
        known = {name: shape for name, shape in route.targets.items() if name in expected}
        fresh = {name: shape for name, shape in known.items() if name not in found.provided}
        if not fresh:
            for name in route.sources:
                if traits.unexpected_allowed(name) or traits.unexpected_allowed(_first(route)):
                    report.ignored.append(name)
                else:
                    report.unexpected[name] = checkpoint.info(name).file.name
            continue
        for name in route.targets.keys() - known.keys():
            if not traits.unexpected_allowed(name):
                report.unexpected[name] = checkpoint.info(route.sources[0]).file.name
        for target, shape in fresh.items():
            inputs = [sources[name] for name in route.sources]
            problem = _problem(target, shape, inputs, expected[target], route, checkpoint)
            if problem:
                report.mismatched[target] = problem
                continue
            wanted = traits.dtype_of(target, expected[target])
            found.dtypes[target] = wanted or inputs[0].dtype
            found.provided.add(target)
        if any(target in found.provided for target in fresh):
            found.routes.append(route)
    return found


def _refuse_twofold(route: Route, evidence: Evidence, checkpoint: Checkpoint) -> None:
    for target in route.targets:
        module = target.removesuffix(".weight")
        if module != target and module in evidence.specs:
            raise CheckpointError(
                f"{checkpoint.path}: {route.sources[0]} is the weight of {module}, which the file "
                f"holds packed as well ({evidence.names[module]}); remove the one that is not meant"
            )


def _first(route: Route) -> str:
    return next(iter(route.targets))


def _problem(
    target: str,
    shape: tuple[int, ...],
    inputs: list[Tensor],
    expected: Tensor,
    route: Route,
    checkpoint: Checkpoint,
) -> str:
    """What is wrong with a tensor for its place in the model; "" where nothing is."""
    names = ", ".join(route.sources[:4]) + (", ..." if len(route.sources) > 4 else "")
    file = checkpoint.info(route.sources[0]).file.name
    where = f"{names} in {file}"
    if target != names:
        where += f" (the model's {target})"
    if shape != tuple(expected.shape):
        return f"{where}: expected shape {list(expected.shape)}, found {list(shape)}"
    floats = [tensor.is_floating_point() or tensor.is_complex() for tensor in inputs]
    if all(floats) != (expected.is_floating_point() or expected.is_complex()):
        kind = checkpoint.info(route.sources[0]).dtype
        hint = "; is it quantized by a method the config does not name?" if not all(floats) else ""
        return f"{where}: expected {expected.dtype}, found {kind}{hint}"
    return ""
