"""Tensors that share their bytes: which they are, and what the checkpoint makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn


@dataclass
class Ties:
    """Who takes whose bytes.

    Attributes:
        of: tensor that the checkpoint lacks -> the tensor whose bytes it takes.
        doubled: pairs that are tied and both in the checkpoint: one if they are equal.
        apart: pairs that are tied by the class and cannot be here -> why.
        lost: tensors that the checkpoint lacks, as it lacks all they are tied to.
    """

    of: dict[str, str] = field(default_factory=dict)
    doubled: list[tuple[str, str]] = field(default_factory=list)
    apart: dict[tuple[str, str], str] = field(default_factory=dict)
    lost: dict[str, list[str]] = field(default_factory=dict)


def shared_parameters(model: nn.Module) -> dict[str, str]:
    """Ties that the modules themselves show: name -> first name of the same parameter."""
    first: dict[int, str] = {}
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = first.setdefault(id(parameter), name)
        if owner != name:
            found[name] = owner
    return found


def groups(ties: Mapping[str, str]) -> list[list[str]]:
    """Tensors that share bytes, the owner of each group first."""
    found: dict[str, list[str]] = {}
    for name, owner in ties.items():
        top = owner
        while top in ties and ties[top] != top:
            top = ties[top]
        found.setdefault(top, [top])
        if name not in found[top]:
            found[top].append(name)
    return list(found.values())


def settle(ties: Mapping[str, str], loaded: Iterable[str], packed: Iterable[str]) -> Ties:
    """What of the class's ties holds, by the evidence of the checkpoint.

    Args:
        ties: tensor -> the tensor it is tied to.
        loaded: tensors for which the checkpoint has one of its own, packed or float.
        packed: those of them that are packed.
    """
    have, codes = set(loaded), set(packed)
    result = Ties()
    for group in groups(ties):
        owner = group[0]
        present = [name for name in group if name in have]
        if not present:
            result.lost[owner] = group[1:]
            continue
        source = owner if owner in have else present[0]
        for name in group:
            if name == source:
                continue
            if name not in have:
                result.of[name] = source
            elif (name in codes) != (source in codes):
                kinds = ("packed", "float") if name in codes else ("float", "packed")
                result.apart[name, source] = (
                    f"{name} is {kinds[0]} and {source} is {kinds[1]} in the checkpoint"
                )
            else:
                result.doubled.append((name, source))
    return result


def prune(model: nn.Module, names: Iterable[str]) -> None:
    """Make a model forget declared ties, so that tying again does not bring them back.

    The declarations are those of `transformers`: `all_tied_weights_keys` on the
    model, `_tied_weights_keys` on every submodel, which instances may override.

    Args:
        model: the loaded model.
        names: tensors that are tied to nothing, or through a shared packed weight.
    """
    gone = set(names)
    for prefix, module in model.named_modules():
        start = f"{prefix}." if prefix else ""
        known = getattr(module, "all_tied_weights_keys", None)
        if isinstance(known, dict):
            module.all_tied_weights_keys = {
                name: owner for name, owner in known.items() if start + name not in gone
            }
        declared = getattr(module, "_tied_weights_keys", None)
        expand = getattr(module, "get_expanded_tied_weights_keys", None)
        if not isinstance(declared, dict) or expand is None:
            continue
        expanded = expand(all_submodels=False)
        if any(start + name in gone for name in expanded):
            module._tied_weights_keys = {
                name: owner for name, owner in expanded.items() if start + name not in gone
            }
