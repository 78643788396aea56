"""Cases on a GPU: processes that make themselves ready together and are timed in turns.

A case runs in a process of its own, so that one that fails costs the others nothing.
What comes before the timing (imports, weights, compilation) takes minutes of a host and
is done by all at once; no turn begins before it is over. A child calls `wait_for_turn`
when it is ready and `answer` with its figures; the parent reads them by `take_turns`.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

READY, RESULT = "READY", "RESULT "
PATIENCE = 5.0
"""Seconds in which a process may end by itself."""


def wait_for_turn() -> None:
    """In a child: everything is ready; returns when nobody else is being timed."""
    print(READY, flush=True)
    if not sys.stdin.readline():
        raise SystemExit("the process that gives turns has ended")


def answer(figures: dict[str, Any]) -> None:
    """In a child: the figures of its case, as often as there are new ones."""
    print(RESULT + json.dumps(figures), flush=True)


class Child:
    """A case in its process, and what it has said so far."""

    def __init__(self, case: str, command: list[str]) -> None:
        self.case = case
        self.figures: dict[str, Any] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._complaints: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115  read at the end
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._complaints, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put(None)

    def _next(self, until: float) -> str | None:
        """The next line; None where there is none any more, or not in time."""
        try:
            return self._lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return None

    def is_ready(self, until: float) -> bool:
        """Whether it gets ready before a moment of `time.monotonic`."""
        while (line := self._next(until)) is not None:
            if line.startswith(READY):
                return True
        return False

    def turn(self, limit: float) -> None:
        """Let it measure for so many seconds; the last figures it gives count."""
        until = time.monotonic() + limit
        if self._process.stdin is not None:
            try:
                self._process.stdin.write("\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                return
        while (line := self._next(until)) is not None:
            if line.startswith(RESULT):
                self.figures = json.loads(line.removeprefix(RESULT))

    def end(self) -> str:
        """End it, and say what it complained of last."""
        if self._process.poll() is None:
            try:
                self._process.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._complaints.seek(0)
        return f"exit {self._process.returncode}\n{self._complaints.read()[-1500:]}"


def take_turns(
    command: Callable[[str], list[str]], cases: Sequence[str], ready: float, turn: float
) -> Iterator[tuple[str, dict[str, Any] | None, str]]:
    """Case, its figures and its last words, as they come; no figures where it failed.

    Args:
        command: case -> the command of its process.
        cases: in the order of their turns.
        ready: seconds in which all must be ready; who is not is ended.
        turn: seconds of each turn.
    """
    until = time.monotonic() + ready
    children = [Child(case, command(case)) for case in cases]
    able = []
    for child in children:
        if child.is_ready(until):
            able.append(child)
        else:
            late = "not ready in time; " if time.monotonic() >= until else ""
            yield child.case, None, late + child.end()
    for child in able:
        child.turn(turn)
        said = child.end()
        yield child.case, child.figures, said
