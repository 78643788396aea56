"""Which objects of the model are one object, and which only come from the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quantload.errors import UnsupportedOperationError
from quantload.loading.device_map import DeviceMap
from quantload.loading.skeleton import describe
from quantload.loading.tying import Ties
from quantload.quantizers.spec import ModuleSpec


@dataclass
class Sharing:
    """What becomes of tied tensors.

    Attributes:
        tensors: float tensor -> the tensor whose parameter it is set to.
        modules: module -> the module whose packed weight it is set to.
        copies: tensor -> the tensor it takes its bytes from, to make its own of them:
            one is quantized and the other is not, or they are on different devices.
        forget: tensors whose declared tie no longer describes the model.
    """

    tensors: dict[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    forget: set[str] = field(default_factory=set)

    def part(self, places: DeviceMap) -> None:
        """Give what is to be on different devices bytes of its own."""
        for shared, suffix in ((self.tensors, ""), (self.modules, ".weight")):
            for name, owner in list(shared.items()):
                if places.place(name) != places.place(owner):
                    del shared[name]
                    source = owner + suffix
                    self.copies[name + suffix] = self.copies.get(source, source)


def share(
    model: nn.Module,
    expected: Mapping[str, Tensor],
    ties: Ties,
    packed: Iterable[str],
    specs: dict[str, ModuleSpec],
) -> Sharing:
    """Decide for every tie whether it is one object.

    Args:
        model: the skeleton.
        expected: its tensors by name.
        ties: what the checkpoint makes of the class's ties; completed.
        packed: modules that are packed in the checkpoint.
        specs: of all modules that will be packed; sharing ones are added.

    Raises:
        UnsupportedOperationError: something tied to a packed weight cannot host it.
    """
    found = Sharing()
    codes = set(packed)
    for source, names in _by_source(ties).items():
        owner = _module(source)
        if owner in codes:
            for name in names[1:]:
                module = _module(name)
                if module == name:
                    raise UnsupportedOperationError(
                        f"{name} is tied to {source}, which is packed, and is no module's weight"
                    )
                spec = specs[owner].replace(tied_to=owner)
                specs[module] = describe(model, spec, module, spec.dtype or expected[name].dtype)
                found.modules[module] = owner
            found.forget.update(names)
            continue
        quantized = [n for n in names if _module(n) in specs]
        floats = [n for n in names if n not in quantized]
        found.tensors.update(dict.fromkeys(floats[1:], floats[0]))
        found.modules.update({_module(n): _module(quantized[0]) for n in quantized[1:]})
        found.copies.update({kind[0]: source for kind in (quantized, floats) if kind})
        found.copies.pop(source, None)
        if quantized and floats:
            ties.apart[quantized[0], floats[0]] = f"{quantized[0]} is quantized while loading"
        if quantized:
            found.forget.update(quantized)
    for owner, names in ties.lost.items():
        found.tensors.update(dict.fromkeys(names, owner))
    for pair in list(ties.doubled):
        if (_module(pair[0]) in specs) != (_module(pair[1]) in specs):
            ties.doubled.remove(pair)
            ties.apart[pair] = "one of them is quantized while loading"
    found.forget.update(name for name, _ in ties.apart)
    return found


def alias(model: nn.Module, shared: Mapping[str, str]) -> None:
    """Make names that share bytes one parameter on the skeleton: its size counts once."""
    for name, owner in shared.items():
        module, _, leaf = name.rpartition(".")
        parent, _, own = owner.rpartition(".")
        parameters = model.get_submodule(module)._parameters
        if isinstance(parameters.get(leaf), torch.Tensor):
            parameters[leaf] = model.get_submodule(parent)._parameters[own]


def _by_source(ties: Ties) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, source in ties.of.items():
        found.setdefault(source, [source]).append(name)
    return found


def _module(tensor: str) -> str:
    return tensor.removesuffix(".weight")
