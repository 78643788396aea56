"""The names and conversions that `transformers` publishes for its model classes.

Source: `transformers.conversion_mapping` and `transformers.core_model_loading`
(5.0 to 5.23), which keep, per class, how the tensors of published checkpoints
become the parameters of the class: renamed, split, joined, transposed, or stacked
(the experts of Mixtral and Qwen3-MoE).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from quantload.errors import CheckpointError
from quantload.loading.names import Member, Route, Slot

_STACK, _JOIN = ("MergeModulelist", 0), ("Concatenate", 1)
"""What is done to the matrices of experts, and along which dimension."""


class TransformersNames:
    """How the checkpoints of a `transformers` class name what the class holds.

    Args:
        model: the model, or its skeleton on meta.
        transforms: its transforms, where they are known already; those of its class if None.
    """

    def __init__(self, model: Any, transforms: list[Any] | None = None) -> None:
        self._model = model
        if transforms is None:
            transforms = get_model_conversion_mapping(model)
        self._transforms = transforms
        self._renamings = [t for t in self._transforms if isinstance(t, WeightRenaming)]
        self._converters = [t for t in self._transforms if isinstance(t, WeightConverter)]

    def routes(self, sources: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[Route]:
        """One route per tensor, or per group of tensors that a converter takes together.

        Raises:
            CheckpointError: tensors that belong together do not fit together.
        """
        owners = {pattern: c for c in self._converters for pattern in c.source_patterns}
        routes: list[Route] = []
        groups: dict[tuple[str, int], list[tuple[str, str]]] = {}
        # Some renamings remember what they saw, and stacking follows this order.
        for name in sorted(sources, key=dot_natural_key):
            renamed, pattern = self._renamed(name, expected)
            if pattern is None:
                routes.append(Route((name,), {renamed: tuple(sources[name].shape)}))
            else:
                groups.setdefault((renamed, id(owners[pattern])), []).append((pattern, name))
        view = _Shapes(self._model, expected)
        for (target, _), members in groups.items():
            converter = owners[members[0][0]]
            conversion = TransformersConversion(converter, target, members, view)
            names = tuple(name for _, name in members)
            targets: dict[str, tuple[int, ...]] = {target: ()}
            if target in expected:
                targets = _shapes(conversion, {name: sources[name] for name in names})
            routes.append(Route(names, targets, conversion))
        return routes

    def locate(self, name: str, expected: Mapping[str, Tensor]) -> tuple[str, bool]:
        """The model's name, and whether a converter would take the tensor."""
        renamed, pattern = self._renamed(name, expected)
        return renamed, pattern is not None

    def member(self, name: str, expected: Mapping[str, Tensor]) -> Member | None:
        """See `NameMap.member`."""
        stack, pattern = self._renamed(name, expected)
        if pattern is None:
            return None
        converter = next(c for c in self._converters if pattern in c.source_patterns)
        operations = [
            (type(one).__name__, getattr(one, "dim", None)) for one in converter.operations
        ]
        if operations not in ([_STACK], [_STACK, _JOIN]) or len(converter.target_patterns) != 1:
            return None
        key, _ = rename_source_key(name, self._renamings, [])
        numbered = re.search(pattern.replace("*.", r"(?P<number>\d+)\."), key)
        if numbered is None or "number" not in numbered.groupdict():
            return None
        patterns = converter.source_patterns
        number = int(numbered["number"])
        return Member(stack, number, patterns.index(pattern), len(patterns))

    def _renamed(self, name: str, expected: Mapping[str, Tensor]) -> tuple[str, str | None]:
        prefix = self._model.base_model_prefix
        renamed, pattern = rename_source_key(
            name, self._renamings, self._converters, prefix, expected
        )
        if renamed not in expected and name in expected:
            renamed, pattern = rename_source_key(name, [], [], prefix, expected)
        return renamed, pattern

    def used(self) -> list[Any]:
        """The transforms that matched a name; `save_pretrained` reverts these."""
        return [t for t in self._transforms if getattr(t, "was_used", lambda: True)()]


class TransformersConversion:
    """One published converter, applied to one group of tensors.

    Args:
        converter: the `WeightConverter`.
        target: the model's name for the first target.
        members: (pattern of the converter, name in the checkpoint), in stacking order.
        model: what the converter's operations may ask for shapes and settings.
    """

    def __init__(
        self, converter: Any, target: str, members: list[tuple[str, str]], model: _Shapes
    ) -> None:
        self._converter = converter
        self._target = target
        self._members = members
        self._model = model

    @property
    def kinds(self) -> str:
        """The operations by name, for messages."""
        return ", ".join(type(operation).__name__ for operation in self._converter.operations)

    @property
    def on_cpu(self) -> bool:
        """Whether it is asked to run on the CPU, for the sake of the device's memory."""
        return bool(getattr(self._converter, "force_cpu", False))

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the converter's operations; see `quantload.loading.names.Conversion`."""
        converter = copy.deepcopy(self._converter)
        for pattern, name in self._members:
            converter.add_tensor(self._target, name, pattern, tensors[name])
        found = converter.convert(self._target, model=self._model, config=self._model.config)
        if isinstance(found, tuple):  # before 5.3: with a second value about quantizers
            found = found[0]
        return {k: v[0] if isinstance(v, list) else v for k, v in found.items()}

    def slots(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Slot] | None:
        """Known for stacking, for joining, and for stacking and then joining."""
        lists: dict[str, list[str]] = {}
        for pattern, name in self._members:
            lists.setdefault(pattern, []).append(name)
        operations = self._converter.operations
        kinds = [type(operation).__name__ for operation in operations]
        stack = operations[0].dim if kinds[:1] == ["MergeModulelist"] else None
        join = operations[-1].dim if kinds[-1:] == ["Concatenate"] else None
        known = (["MergeModulelist"], ["Concatenate"], ["MergeModulelist", "Concatenate"])
        if kinds not in known or (join is None and len(lists) > 1) or stack == join:
            return None
        slots: dict[str, Slot] = {}
        start = 0
        for pattern in (p for p in self._converter.source_patterns if p in lists):
            for place, name in enumerate(lists[pattern]):
                shape = list(shapes[name])
                if stack is not None:
                    shape.insert(stack, 1)
                index: list[int | slice] = [slice(None)] * len(shape)
                if join is not None:
                    index[join] = slice(start, start + shape[join])
                if stack is not None:
                    index[stack] = place
                slots[name] = tuple(index)
                if stack is None and join is not None:
                    start += shape[join]
            if stack is not None and join is not None:
                start += shape[join]
        return slots


def _shapes(
    conversion: TransformersConversion, sources: dict[str, Tensor]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a conversion gives, found by running it on meta tensors."""
    try:
        return {name: tuple(tensor.shape) for name, tensor in conversion(sources).items()}
    except Exception as error:
        listing = ", ".join(f"{name} {list(t.shape)}" for name, t in sources.items())
        raise CheckpointError(
            f"these tensors are to be converted together ({conversion.kinds}) and do not fit: "
            f"{listing}: {error}"
        ) from error


class _Shapes:
    """The model as conversions see it: parameters have their float shapes, packed or not."""

    def __init__(self, model: Any, expected: Mapping[str, Tensor]) -> None:
        self._model = model
        self._expected = expected

    def get_parameter(self, name: str) -> Tensor:
        return self._expected[name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
