"""Switching the bridge on and off."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from types import TracebackType

from quantload.integrations.transformers.bridge import patches
from quantload.integrations.transformers.bridge.choice import Choice

_lock = threading.RLock()
_enabled: list[Bridge] = []


class Bridge(contextlib.AbstractContextManager["Bridge"]):
    """One call of `enable_transformers`, in effect until `undo()` or the end of its block.

    `transformers` is as it was when every call has been undone.

    Args:
        only: see `enable_transformers`.
        keep: see `enable_transformers`.
    """

    def __init__(
        self, only: str | Iterable[str] | None = None, keep: str | Iterable[str] | None = None
    ) -> None:
        self.choice = Choice(only, keep)
        with _lock:
            if not _enabled:
                patches.install()
            _enabled.append(self)
            patches.serve(self.choice)

    def undo(self) -> None:
        """Take this call back. Doing it twice is harmless."""
        with _lock:
            if self not in _enabled:
                return
            _enabled.remove(self)
            patches.serve(_enabled[-1].choice if _enabled else None)
            if not _enabled:
                patches.remove()

    @property
    def enabled(self) -> bool:
        """Whether this call is still in effect."""
        return self in _enabled

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.undo()


def any_enabled() -> bool:
    """Whether any call is in effect."""
    return bool(_enabled)
