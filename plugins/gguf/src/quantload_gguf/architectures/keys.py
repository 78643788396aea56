"""`Keys`: the metadata of a file that is about to be written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantload_gguf.container.values import Field, ValueType


class Keys:
    """Fields in the types that llama.cpp insists on: uint32, float32, bool, string.

    Args:
        architecture: `general.architecture`, the beginning of the model's own keys.

    Attributes:
        fields: what was put in, by full key and in order.
        factors: rotary factors, which files hold as tensors: name -> numbers.
    """

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        self.fields: dict[str, Field] = {}
        self.factors: dict[str, list[float]] = {}
        self.text("general.architecture", architecture)

    def whole(self, name: str, value: Any) -> None:
        """One of the model's own whole numbers, not below 0; None puts nothing."""
        if value is not None:
            self.fields[self._own(name)] = Field(int(value), ValueType.UINT32)

    def number(self, name: str, value: Any) -> None:
        """One of the model's own numbers; None puts nothing."""
        if value is not None:
            self.fields[self._own(name)] = Field(float(value), ValueType.FLOAT32)

    def flag(self, name: str, value: Any) -> None:
        """One of the model's own bools; None puts nothing."""
        if value is not None:
            self.fields[self._own(name)] = Field(bool(value), ValueType.BOOL)

    def flags(self, name: str, values: Sequence[bool]) -> None:
        """One of the model's own arrays of bools."""
        self.fields[self._own(name)] = Field(list(values), ValueType.ARRAY, ValueType.BOOL)

    def own_text(self, name: str, value: str) -> None:
        """One of the model's own strings."""
        self.text(self._own(name), value)

    def text(self, key: str, value: str) -> None:
        """A string under a full key."""
        self.fields[key] = Field(value, ValueType.STRING)

    def put(self, key: str, value: Any, item_type: ValueType | None = None) -> None:
        """Any value under a full key, in the type that follows from it.

        Args:
            key: the full key.
            value: bool, whole number, float, string, or a list.
            item_type: of the items of a list.
        """
        if isinstance(value, list):
            self.fields[key] = Field(value, ValueType.ARRAY, item_type)
        else:
            kinds = {bool: ValueType.BOOL, int: ValueType.UINT32, float: ValueType.FLOAT32}
            self.fields[key] = Field(value, kinds.get(type(value), ValueType.STRING))

    def _own(self, name: str) -> str:
        return f"{self.architecture}.{name}"
