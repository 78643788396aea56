"""What a test of a hook needs: to see what `transformers` hands it, and to say who broke it."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import transformers

ROOT = Path(__file__).resolve().parents[3]


def releases() -> str:
    """The releases that the bridge is tested with: the oldest, and the newest that is pinned."""
    oldest = re.search(r'^BRIDGED = \("([\d.]+)"', (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    newest = re.search(
        r"^transformers==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE
    )
    assert oldest is not None
    assert newest is not None
    return f"{oldest[1]} to {newest[1]}"


@contextmanager
def leaning_on(hook: str) -> Iterator[None]:
    """Whatever goes wrong within is the fault of a hook, and the failure says of which release."""
    try:
        yield
    except Exception as error:
        pytest.fail(
            f"transformers {transformers.__version__} broke a hook of the bridge: {hook}\n"
            f"(the bridge is tested with transformers {releases()})\n"
            f"{type(error).__name__}: {error}"
        )


def located(target: str) -> tuple[Any, str]:
    """The owner of a dotted name, and the last part of it."""
    module, *rest = target, ""
    while True:
        module, _, part = module.rpartition(".")
        rest.insert(0, part)
        try:
            owner: Any = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        names = [name for name in rest if name]
        for name in names[:-1]:
            owner = getattr(owner, name)
        return owner, names[-1]


class Calls(list[dict[str, Any]]):
    """The arguments of every call, by the names of the original's parameters."""

    results: list[Any]


def watch(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Calls:
    """Record how something is called from now on; it does what it did."""
    calls = Calls()
    calls.results = []
    raw = inspect.getattr_static(owner, name)
    if isinstance(raw, property):
        getter = raw.fget
        assert getter is not None

        def read(self: Any) -> Any:
            calls.append({"self": self})
            calls.results.append(getter(self))
            return calls.results[-1]

        monkeypatch.setattr(owner, name, property(read))
        return calls
    wrapped = isinstance(raw, (classmethod, staticmethod))
    function = raw.__func__ if wrapped else raw
    signature = inspect.signature(function)

    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        calls.append(dict(signature.bind(*args, **kwargs).arguments))
        calls.results.append(function(*args, **kwargs))
        return calls.results[-1]

    monkeypatch.setattr(owner, name, type(raw)(watched) if wrapped else watched)
    return calls
