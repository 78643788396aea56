"""Metadata values: their types, and reading them within bounds."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from quantload_gguf.container.cursor import Cursor

MAX_DEPTH = 8
MAX_ITEMS = 1 << 23
"""Of all arrays together, each by its weight."""
WEIGHTS = {8: 4, 9: 64}
"""What a string and an array take to read, beside a number."""


class ValueType(enum.IntEnum):
    """The types a metadata value may have."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


CODES = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
"""`struct` codes of the numbers."""

# What `numpy` calls them; a bool is read as a byte, for any but 0 is true.
ARRAYS = {
    ValueType.UINT8: "u1",
    ValueType.INT8: "i1",
    ValueType.UINT16: "u2",
    ValueType.INT16: "i2",
    ValueType.UINT32: "u4",
    ValueType.INT32: "i4",
    ValueType.FLOAT32: "f4",
    ValueType.BOOL: "u1",
    ValueType.UINT64: "u8",
    ValueType.INT64: "i8",
    ValueType.FLOAT64: "f8",
}


@dataclass(frozen=True)
class Field:
    """One metadata entry.

    Attributes:
        value: a number, bool, string, or list of these (lists of lists where nested).
        type: what it is stored as.
        item_type: what the items of an array are stored as; None for others.
    """

    value: Any
    type: ValueType
    item_type: ValueType | None = None


class Values:
    """Reads values and keeps count of how many array items there were.

    Args:
        cursor: where they are.
    """

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._items = 0

    def field(self, key: str) -> Field:
        """The next value with its type.

        Raises:
            CheckpointError: an unknown type, more than the file holds, too deep, or
                more items than any model has.
        """
        kind = self._type(key)
        if kind is not ValueType.ARRAY:
            return Field(self._scalar(kind, key), kind)
        items, item_type = self._array(key, depth=1)
        return Field(items, kind, item_type)

    def _type(self, key: str) -> ValueType:
        number = self._cursor.integer("I", f"the type of {key}")
        try:
            return ValueType(number)
        except ValueError:
            self._cursor.at -= 4
            raise self._cursor.error(
                f"{key} has the value type {number}, known are 0 to {max(ValueType)}; the file is "
                f"damaged or of a later version of the format"
            ) from None

    def _scalar(self, kind: ValueType, key: str) -> Any:
        if kind is ValueType.STRING:
            return self._cursor.string(key)
        return self._cursor.number(CODES[kind], key)

    def _array(self, key: str, depth: int) -> tuple[list[Any], ValueType]:
        if depth > MAX_DEPTH:
            raise self._cursor.error(f"{key}: arrays nested deeper than {MAX_DEPTH}")
        kind = self._type(f"the items of {key}")
        count = self._cursor.integer("Q", f"the length of {key}")
        self._items += count * WEIGHTS.get(kind, 1)
        smallest = {ValueType.STRING: 8, ValueType.ARRAY: 12}.get(kind) or _width(kind)
        if count * smallest > self._cursor.remaining or self._items > MAX_ITEMS:
            raise self._cursor.error(
                f"{key} claims to be an array of {count} items, which is more than the file or any "
                f"model holds; the file is damaged: download it again"
            )
        if kind is ValueType.STRING:
            return self._cursor.strings(count, key), kind
        if kind is ValueType.ARRAY:
            return [self._array(key, depth + 1)[0] for _ in range(count)], kind
        return self._numbers(kind, count, key), kind

    def _numbers(self, kind: ValueType, count: int, key: str) -> list[Any]:
        import numpy as np

        data = self._cursor.take(count * _width(kind), key)
        order = "<" if self._cursor.order == "little" else ">"
        found = np.frombuffer(data, dtype=order + ARRAYS[kind])
        items: list[Any] = (found != 0 if kind is ValueType.BOOL else found).tolist()
        return items


def _width(kind: ValueType) -> int:
    return int(ARRAYS[kind][1])
