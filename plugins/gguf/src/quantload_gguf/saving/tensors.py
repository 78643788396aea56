"""From the tensors of a model to those of a file: the rules of its architecture, backwards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantload.errors import UnsupportedOperationError
from quantload_gguf.architectures import Architecture, Facts
from quantload_gguf.architectures.table import SUFFIXES, Rule
from quantload_gguf.architectures.transforms import EachRow, Transform
from quantload_gguf.container.writing import Planned
from quantload_gguf.ggml import GgmlType, ggml_type
from quantload_gguf.weight import GgufWeight

if TYPE_CHECKING:
    from torch import Tensor

    from quantload.plugin import ModelParts

logger = logging.getLogger("quantload.gguf")

_PLAIN = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}
# Numbers that ggml's operations want in float32, beside all vectors.
_WIDE = ("norm", "ffn_gate_inp", "position_embd", "token_types", "rope_f")


@dataclass(frozen=True)
class Part:
    """A tensor of the model.

    Attributes:
        name: in the model, `.weight` included.
        shape: logical.
        kind: the ggml type of its blocks; None for floats.
        identity: the same for tensors that are one.
        read: gives the numbers or blocks.
    """

    name: str
    shape: tuple[int, ...]
    kind: GgmlType | None
    identity: int
    read: Callable[[], Tensor]
    plain: str = "F32"


def parts_of(parts: ModelParts) -> dict[str, Part]:
    """Every tensor of a model by its name, packed ones as blocks.

    Raises:
        UnsupportedOperationError: something is packed by another method, or holds
            numbers that are no floats.
    """
    found: dict[str, Part] = {}
    for name, weight in parts.weights.items():
        if not isinstance(weight, GgufWeight):
            raise UnsupportedOperationError(
                f"{name} is packed as {weight.layout!r}, and a .gguf file holds ggml blocks or "
                f"floats; quantload.dequantize(model) first, or save into a folder"
            )
        read = _blocks(parts, weight)
        key = f"{name}.weight"
        found[key] = Part(key, tuple(weight.shape), weight.ggml_type, id(weight), read)
    for name, tensor in parts.tensors.items():
        plain = _PLAIN.get(str(tensor.dtype))
        if plain is None:
            raise UnsupportedOperationError(
                f"{name}: a .gguf file of a model holds float32, float16 or bfloat16, found "
                f"{str(tensor.dtype).removeprefix('torch.')}"
            )
        read = _floats(parts, name)
        found[name] = Part(name, tuple(tensor.shape), None, id(tensor), read, plain)
    return found


def plan(
    parts: Mapping[str, Part], architecture: Architecture, facts: Facts, what: str
) -> list[Planned]:
    """The tensors of the file, each made when it is written.

    Args:
        parts: of the model.
        architecture: with the rules.
        facts: of the file that is written.
        what: the model, for messages.

    Raises:
        UnsupportedOperationError: no rule knows a tensor of the model.
    """
    done: set[int] = set()
    used: set[str] = set()
    found: list[Planned] = []
    for rule, layer in _order(architecture.rules, facts.blocks):
        for suffix in SUFFIXES[:1] if rule.bare else SUFFIXES:
            target = (rule.target if rule.bare else rule.target + suffix).replace("{i}", str(layer))
            group = _group(parts, target)
            used.update(part.name for part in group)
            if not group or group[0].identity in done:
                continue
            done.update(part.identity for part in group)
            names = [source.format(i=layer) + suffix for source in rule.sources[0]]
            found.extend(_planned(group, names, rule.how, facts))
    dropped = [n for n in parts if n not in used and n.startswith(architecture.left_out or ("\0",))]
    if dropped:
        logger.warning("%s: not written, for .gguf files do not hold it: %s", what, dropped)
    unknown = [
        part.name
        for part in parts.values()
        if part.name not in used and part.identity not in done and part.name not in dropped
    ]
    if unknown:
        raise UnsupportedOperationError(
            f"{what}: a .gguf file has no place for {', '.join(unknown[:5])}"
            + (f" and {len(unknown) - 5} more tensors" if unknown[5:] else "")
        )
    return found


def _order(rules: tuple[Rule, ...], layers: int) -> Iterator[tuple[Rule, int]]:
    """First what is there once, then layer by layer."""
    yield from ((rule, 0) for rule in rules if "{i}" not in rule.target)
    for layer in range(layers):
        yield from ((rule, layer) for rule in rules if "{i}" in rule.target)


def _group(parts: Mapping[str, Part], target: str) -> list[Part]:
    """The tensor of a name; all of them in order where it has a number to fill in."""
    if "{e}" not in target:
        return [parts[target]] if target in parts else []
    found: list[Part] = []
    while (name := target.replace("{e}", str(len(found)))) in parts:
        found.append(parts[name])
    return found


def _planned(
    group: list[Part], names: list[str], how: Transform | None, facts: Facts
) -> Iterator[Planned]:
    import torch

    part = group[0]
    if how is not None and part.kind is not None and how.packed == "kept":
        how = None
    if isinstance(how, EachRow):
        shape = (len(group), *part.shape)
        kind = _kind_of_all(names[0], group, shape)
        yield Planned(
            names[0], shape, kind, lambda: _as(torch.stack([p.read() for p in group]), kind)
        )
        return
    if how is None:
        kind = part.kind or _kind(names[0], part, part.shape)
        yield Planned(names[0], part.shape, kind, lambda: _as(part.read(), kind))
        return
    meta = how.revert(torch.empty(part.shape, device="meta"), facts)
    for place, name in enumerate(names):
        shape = tuple(meta[place].shape)
        kind = part.kind or _kind(name, part, shape)
        made = _reverted(part, how, facts, place, kind)
        yield Planned(name, shape, kind, made)


def _reverted(
    part: Part, how: Transform, facts: Facts, place: int, kind: GgmlType
) -> Callable[[], Tensor]:
    return lambda: _as(how.revert(part.read(), facts)[place], kind)


def _kind(name: str, part: Part, shape: tuple[int, ...]) -> GgmlType:
    wide = len(shape) < 2 or any(word in name for word in _WIDE)
    return ggml_type("F32" if wide else part.plain)


def _kind_of_all(name: str, group: list[Part], shape: tuple[int, ...]) -> GgmlType:
    """The type of a stack.

    Raises:
        UnsupportedOperationError: what is to be stacked has several.
    """
    kinds = {part.kind for part in group}
    if len(kinds) > 1:
        listing = ", ".join(sorted(kind.name if kind else "numbers" for kind in kinds))
        raise UnsupportedOperationError(
            f"{group[0].name} and its like have several types ({listing}), and in a .gguf file "
            f"they are one tensor, {name}"
        )
    return group[0].kind or _kind(name, group[0], shape)


def _as(tensor: Tensor, kind: GgmlType) -> Tensor:
    import torch

    if kind.packed:
        return tensor
    return tensor.to({"F32": torch.float32, "F16": torch.float16}.get(kind.name, torch.bfloat16))


def _blocks(parts: ModelParts, weight: GgufWeight) -> Callable[[], Tensor]:
    def read() -> Tensor:
        with parts.fetched(weight):
            return weight.canonical().storage()["blocks"].detach().cpu()

    return read


def _floats(parts: ModelParts, name: str) -> Callable[[], Tensor]:
    return lambda: parts.read(name).cpu()
