"""Errors about tensors, raised by code that knows no files, with the file that holds them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING

from quantload.checkpoint.tensorinfo import TensorInfo
from quantload.errors import CheckpointError

if TYPE_CHECKING:
    from quantload.quantizers.spec import TensorHeader

_BETWEEN = re.compile(r"[\s:;,()'\"]+")


@contextmanager
def file_named(
    tensors: Mapping[str, TensorHeader], otherwise: str | PathLike[str] = ""
) -> Iterator[None]:
    """Put the file before the message of a `CheckpointError`, where it does not say it.

    Args:
        tensors: name, as messages have it -> the tensor. Its own name is put into the
            message, too, where that has another.
        otherwise: what to name where the message is of none of them.
    """
    try:
        yield
    except CheckpointError as error:
        text = str(error)
        info = _blamed(text, tensors)
        where = str(otherwise) if info is None else str(info.file)
        if where and where not in text:
            own = "" if info is None or info.name in text else f" {info.name}:"
            error.args = (f"{where}:{own} {text}",)
        raise


def _blamed(text: str, tensors: Mapping[str, TensorHeader]) -> TensorInfo | None:
    """The first tensor that is mentioned, or one of the first module."""
    words = [word.rstrip(".") for word in _BETWEEN.split(text)]
    found = next((tensors[word] for word in words if word in tensors), None)
    if found is None:
        starts = [f"{word}." for word in words if word]
        named = (n for start in starts for n in tensors if n.startswith(start))
        found = next((tensors[name] for name in named), None)
    return found if isinstance(found, TensorInfo) else None
