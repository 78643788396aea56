"""Which modules of a float model are quantized while loading."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from quantload.quantizers.spec import ModuleKind, ModuleSpec

if TYPE_CHECKING:
    from torch import nn


_SAME_AS_LINEAR = ("FalconLinear",)


def module_kind(module: nn.Module) -> ModuleKind | None:
    """What kind of quantizable module this is; None for all others.

    Subclasses of `nn.Linear` have forwards of their own and are left alone, but for
    those that are known to do the same in another way. GPT-2's `Conv1D` is known by its
    name, for `transformers` need not be installed.
    """
    from torch import nn

    known = isinstance(module, nn.Linear) and type(module).__name__ in _SAME_AS_LINEAR
    if type(module) is nn.Linear or known:
        return "linear"
    if type(module).__name__ == "Conv1D" and getattr(module, "nf", None) is not None:
        return "conv1d"
    return None


def logical_shape(module: nn.Module, kind: ModuleKind) -> tuple[int, ...]:
    """`(out_features, in_features)` of a quantizable module."""
    shape: Any = module.weight.shape
    return (int(shape[1]), int(shape[0])) if kind == "conv1d" else tuple(map(int, shape))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a module name is in a skip list, as `transformers` reads such lists.

    An entry matches from the start up to a module boundary ("layers.1" matches
    "layers.1.mlp" and not "layers.11"), also as a regular expression, or as a
    suffix ("fc1"). An entry may end in ".weight".
    """
    for entry in patterns:
        key = entry.removesuffix(".weight")
        if name.endswith(key):
            return True
        if name.startswith(key) and name[len(key) :].startswith("."):
            return True
        try:
            if re.match(rf"(?:{key})(?:(?<=\.)|(?=\.|$))", name):
                return True
        except re.error:
            continue  # a plain name with brackets in it: the tests above have seen it
    return False


def kept_in_float(model: nn.Module) -> set[str]:
    """The modules every method leaves alone where nothing else is said.

    These are the output head, what is tied to anything, and the last module.
    """
    keep: set[str] = set()
    head = getattr(model, "get_output_embeddings", lambda: None)()
    keep.update(
        name for name, module in model.named_modules() if head is not None and module is head
    )
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    keep.update(key.removesuffix(".weight") for pair in tied.items() for key in pair)
    owners: dict[int, str] = {}
    last = ""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = owners.setdefault(id(parameter), name)
        if first != name:
            keep.update(n.rpartition(".")[0] for n in (first, name))
        last = name
    if last and head is not None:
        keep.add(last.rpartition(".")[0])
    return keep


def quantizable_modules(
    model: nn.Module, skip: Iterable[str] = (), keep: Iterable[str] | None = None
) -> dict[str, ModuleSpec]:
    """Every linear layer of a model that a method may quantize.

    Args:
        model: the float model or its skeleton.
        skip: module names to leave alone, in any spelling `matches` knows.
        keep: what is left alone beside that; `kept_in_float(model)` where None.
    """
    skip = list(skip)
    kept = set(kept_in_float(model) if keep is None else keep)
    found: dict[str, ModuleSpec] = {}
    for name, module in model.named_modules():
        kind = module_kind(module)
        if kind is None or name in kept or matches(name, skip):
            continue
        found[name] = ModuleSpec(
            name, kind, logical_shape(module, kind), transposed=kind == "conv1d"
        )
    return found
