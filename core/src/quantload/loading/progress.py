"""A bar in bytes, shown only where somebody is looking."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quantload import env

Report = Callable[[int, int], object]
"""Called with bytes done and bytes in all."""


if TYPE_CHECKING:
    from typing_extensions import Self


class Progress:
    """Counts the bytes of a checkpoint as they are dealt with; a context manager.

    Args:
        total: bytes in all.
        how: a function to call with (done, total); True for a bar, False for none,
            None for a bar where standard error is a terminal. The environment
            variable QUANTLOAD_PROGRESS decides where this is None.
        label: what is going on.
    """

    def __init__(self, total: int, how: bool | Report | None = None, label: str = "") -> None:
        self.total = total
        self.done = 0
        self._report = how if callable(how) else None
        self._bar: Any = None
        if self._report is None and wanted(how):
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, unit="B", unit_scale=True, desc=label, leave=False, file=sys.stderr
            )

    def advance(self, nbytes: int) -> None:
        """Another `nbytes` are done."""
        self.done += nbytes
        if self._report is not None:
            self._report(self.done, self.total)
        elif self._bar is not None:
            self._bar.update(nbytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()


def wanted(how: object) -> bool:
    """Whether a bar is to be shown."""
    if how is None and env.PROGRESS.get():
        return env.PROGRESS.get() not in ("0", "false", "no", "off")
    if how is None:
        return bool(sys.stderr is not None and sys.stderr.isatty())
    return bool(how)
