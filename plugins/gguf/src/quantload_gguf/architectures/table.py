"""The form in which an architecture is described."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quantload_gguf.architectures.facts import Facts
from quantload_gguf.architectures.keys import Keys
from quantload_gguf.architectures.transforms import Transform

SUFFIXES = (".weight", ".bias")


@dataclass(frozen=True)
class Rule:
    """Where a module of the model (or, with `bare`, a tensor) comes from.

    Attributes:
        target: the model's name; `{i}` is the layer, `{e}` the expert or row.
        sources: the file's names, without `.weight` or `.bias`; of several variants
            the first whose tensors are there is taken.
        how: what to do with the tensors.
        bare: the target is a tensor and made from the weights of the sources.
        needs: a tensor without which the rule does not count.
        excludes: a tensor with which it does not count.
        packed: whether it counts where a layer's experts are stored in blocks, or where
            they are numbers; None where that does not matter.
    """

    target: str
    sources: tuple[tuple[str, ...], ...]
    how: Transform | None = None
    bare: bool = False
    needs: str = ""
    excludes: str = ""
    packed: bool | None = None


def rule(
    target: str,
    source: str,
    *,
    how: Transform | None = None,
    needs: str = "",
    excludes: str = "",
) -> Rule:
    """A module of the model that is one of the file's."""
    return Rule(target, ((source,),), how, needs=needs, excludes=excludes)


Read = Callable[[Facts], Any]
Write = Callable[[Any, Any, Keys], None]

OMIT = object()


@dataclass(frozen=True)
class Setting:
    """A value of the config, and where files have it.

    Attributes:
        read: gives the value; `OMIT` leaves it out of the config.
        write: puts a value into the metadata: called with the value, the whole config
            and the keys. None where the tensors or other keys say it.
    """

    read: Read
    write: Write | None = None


@dataclass(frozen=True)
class Architecture:
    """One `general.architecture`.

    Attributes:
        model_type: of the config.
        model_class: the class of `transformers`.
        config: key of the config -> a value, or the setting that gives it.
        rules: where the model's tensors come from.
        ignored: tensors of the file that the model has no use for (`{i}` is the layer).
        options: arguments that the class is built with.
        left_out: beginnings of names of tensors of the class that files do not hold.
        constants: settings of the file that no config has, by their keys; the model's own without
            the architecture.
    """

    model_type: str
    model_class: str
    config: Mapping[str, Setting | Any]
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)


def whole(key: str, default: Any = None) -> Setting:
    """A whole number of the metadata."""
    found = _given(default)
    return Setting(lambda facts: facts.whole(key, *found), lambda v, _, keys: keys.whole(key, v))


def number(key: str, default: Any = None) -> Setting:
    """A number of the metadata."""
    found = _given(default)
    return Setting(lambda facts: facts.number(key, *found), lambda v, _, keys: keys.number(key, v))


def optional(key: str) -> Setting:
    """A number of the metadata, left out of the config where there is none."""
    return Setting(lambda facts: facts.get(key, OMIT), lambda v, _, keys: keys.number(key, v))


def present(*tensors: str) -> Setting:
    """Whether the file holds a tensor, under one of its names."""
    return Setting(lambda facts: any(facts.has(tensor) for tensor in tensors))


def absent(tensor: str) -> Setting:
    """Whether the file lacks a tensor."""
    return Setting(lambda facts: not facts.has(tensor))


def _given(default: Any) -> tuple[Any, ...]:
    return () if default is None else (default,)
