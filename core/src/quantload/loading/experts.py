"""Experts in 3-D parameters: taken apart into linear layers where they are, or will be, packed."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from quantload.checkpoint.base import Checkpoint
from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload.loading.claiming import claimed
from quantload.loading.names import Conversion, Member, NameMap, Route, Slot
from quantload.loading.skeleton import tensors_of
from quantload.loading.traits import Traits
from quantload.modules import set_module
from quantload.modules.experts import ExpertsLayout, QuantizedExperts
from quantload.quantizers.weight import WeightQuantizer
from quantload.verdict import Verdict

logger = logging.getLogger(__name__)

_LAYER = re.compile(r"(.+)\.(\d+)\.([^.]+)\.weight")


def take_apart(
    model: nn.Module, checkpoint: Checkpoint, quantizer: WeightQuantizer, traits: Traits
) -> Traits:
    """Put `QuantizedExperts` where experts are packed in the checkpoint, or are to be.

    Args:
        model: the skeleton; changed.
        checkpoint: what is to be loaded. Where it holds nothing packed at all, every
            module of experts is taken apart of which the quantizer wants a layer.
        quantizer: the method.
        traits: of the model's class.

    Returns:
        The traits, with the names of the changed model.

    Raises:
        UnsupportedOperationError: the experts of a module are packed, and what it
            computes is not known.
    """
    found = {name: traits.experts(module) for name, module in model.named_modules()}
    layouts = {n: one for n, one in found.items() if isinstance(one, ExpertsLayout)}
    refused = {n: one for n, one in found.items() if isinstance(one, Verdict)}
    if not layouts and not refused:
        return traits
    expected = tensors_of(model)
    claims = [n for n, s in claimed(quantizer, checkpoint).items() if s.kind != "wrapper"]
    if claims:
        _refuse_packed(expected, checkpoint, claims, traits, refused)
        names = ExpertNames(traits.names, model, layouts)
        layers = (names.layer(f"{name}.weight", expected) for name in claims)
        wanted = {layer.rpartition(".")[0].rsplit(".", 2)[0] for layer in layers if layer}
    elif quantizer.can_quantize():
        for name, verdict in refused.items():
            logger.warning("%s stay float: %s", name, verdict.reason)
        wanted = _to_quantize(model, quantizer, layouts)
    else:
        return traits  # an error of its own, later
    chosen = {name: layout for name, layout in layouts.items() if name in wanted}
    if not chosen:
        return traits
    names = ExpertNames(traits.names, model, chosen)
    for name, layout in chosen.items():
        set_module(model, name, QuantizedExperts(layout, model.get_submodule(name)))
    return dataclasses.replace(traits, names=names)


def _refuse_packed(
    expected: Mapping[str, Tensor],
    checkpoint: Checkpoint,
    claims: Iterable[str],
    traits: Traits,
    refused: Mapping[str, Verdict],
) -> None:
    if not refused:
        return
    for origin in claims:
        target, converted = traits.names.locate(f"{origin}.weight", expected)
        module = target.rpartition(".")[0]
        direct = _LAYER.fullmatch(target)
        if not (converted and module in refused) and direct is not None:
            module = direct[1]
        if module in refused:
            raise UnsupportedOperationError(
                f"{checkpoint.path}: {origin} is packed, and the experts of {module} cannot be "
                f"run packed: {refused[module].reason}; use a checkpoint that keeps them in float"
            )


def _to_quantize(
    model: nn.Module, quantizer: WeightQuantizer, layouts: Mapping[str, ExpertsLayout]
) -> set[str]:
    """The modules of whose layers the quantizer wants one, found by letting it look."""
    before = {}
    for name, layout in layouts.items():
        module = model.get_submodule(name)
        before[name] = (module, dict(module._parameters))
        set_module(model, name, QuantizedExperts(layout, module))
    try:
        targets = quantizer.targets(model)
    finally:
        for name, (module, parameters) in before.items():
            module._parameters.update(parameters)
            set_module(model, name, module)
    return {name.rsplit(".", 2)[0] for name in targets} & layouts.keys()


class ExpertNames:
    """The names of a model some of whose experts are taken apart.

    Args:
        inner: the names of the model as its class has it.
        model: as its class has it.
        layouts: module -> layout, of what is taken apart.
    """

    def __init__(
        self, inner: NameMap, model: nn.Module, layouts: Mapping[str, ExpertsLayout]
    ) -> None:
        self._inner = inner
        self._layouts = layouts
        self._stacks = {
            f"{name}.{stack}": model.get_submodule(name).get_parameter(stack)
            for name, layout in layouts.items()
            for stack in layout.stacks
        }

    def layer(self, name: str, expected: Mapping[str, Tensor]) -> str:
        """The weight of an expert's layer that a checkpoint tensor is; "" if it is none.

        Raises:
            CheckpointError: it is of an expert that the model does not have.
        """
        # The class first: what it converted, it converts back when a float model is saved.
        member = self._inner.member(name, self._whole(expected))
        if member is not None and member.stack in self._stacks:
            module, _, stack = member.stack.rpartition(".")
            self._check(name, module, member.number)
            parts = self._layouts[module].stacks[stack]
            known = member.parts == len(parts)
            return f"{module}.{member.number}.{parts[member.part]}.weight" if known else ""
        direct = _LAYER.fullmatch(name)
        if direct is None or direct[1] not in self._layouts:
            return ""
        layout = self._layouts[direct[1]]
        if direct[3] not in (*layout.parts, layout.last):
            return ""
        self._check(name, direct[1], int(direct[2]))
        return name

    def _check(self, name: str, module: str, number: int) -> None:
        count = self._layouts[module].count
        if number >= count:
            raise CheckpointError(
                f"{name.removesuffix('.weight')} is of expert {number} (counted from 0), and "
                f"{module} has {count} experts by config.json, which is of another checkpoint"
            )

    def member(self, name: str, expected: Mapping[str, Tensor]) -> Member | None:
        """See `NameMap.member`; of what is not taken apart."""
        return self._inner.member(name, self._whole(expected))

    def locate(self, name: str, expected: Mapping[str, Tensor]) -> tuple[str, bool]:
        """See `NameMap.locate`."""
        layer = self.layer(name, expected)
        return (layer, False) if layer else self._inner.locate(name, self._whole(expected))

    def routes(self, sources: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[Route]:
        """See `NameMap.routes`: the layers' own tensors as they are, stacks taken apart."""
        layers = {name: self.layer(name, expected) for name in sources}
        found = [
            Route((name,), {layer: tuple(sources[name].shape)})
            for name, layer in layers.items()
            if layer
        ]
        rest = {name: tensor for name, tensor in sources.items() if not layers[name]}
        others = self._inner.routes(rest, self._whole(expected))
        return [*found, *map(self._apart, others)]

    def _whole(self, expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors of the model as its class has them, and those of the layers."""
        return ChainMap(self._stacks, expected)  # type: ignore[arg-type]  # it is only read

    def _apart(self, route: Route) -> Route:
        """A route to a stack, led on to the layers that lie in it."""
        targets = list(route.targets)
        if len(targets) != 1 or targets[0] not in self._stacks:
            return route
        module, _, stack = targets[0].rpartition(".")
        layout, shape = self._layouts[module], route.targets[targets[0]]
        if len(shape) != 3 or shape[1 + layout.transposed] % len(layout.stacks[stack]):
            return route
        conversion = _TakeApart(route.conversion, targets[0], layout)
        meta = torch.empty(shape, device="meta")
        shapes = {name: tuple(part.shape) for name, part in conversion.parts(meta)}
        return Route(route.sources, shapes, conversion)


class _TakeApart:
    """What a class makes of checkpoint tensors, taken apart into the layers of experts."""

    def __init__(self, inner: Conversion | None, target: str, layout: ExpertsLayout) -> None:
        self._inner = inner
        self._target = target
        self._layout = layout

    @property
    def on_cpu(self) -> bool:
        return bool(getattr(self._inner, "on_cpu", False))

    def parts(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        module, _, stack = self._target.rpartition(".")
        for name, part in self._layout.split(stack, tensor):
            yield f"{module}.{name}.weight", part

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Conversion`."""
        if self._inner is None:
            (stack,) = tensors.values()
        else:
            stack = self._inner(tensors)[self._target]
        return dict(self.parts(stack))

    def slots(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Slot] | None:
        """None: one source becomes many layers."""
        return None
