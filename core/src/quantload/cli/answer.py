"""How a command answers: a table for people, JSON for programs, an exit status for both."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

import typer

from quantload._version import __version__
from quantload.errors import QuantloadError

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1
"""Of the JSON: fields are added under the same number, changed or removed under the next."""

WIDTH_OF_A_PIPE = 160


class Report(Protocol):
    """What a command found out."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in words; makes the exit status 1."""

    def as_json(self) -> dict[str, object]:
        """The same for programs."""


ReportT = TypeVar("ReportT", bound=Report)


def answer(
    gather: Callable[[], ReportT], render: Callable[[ReportT, Console], None], *, as_json: bool
) -> None:
    """Run a command.

    What plugins print while they are examined goes to the standard error stream.

    Args:
        gather: finds everything out; a `QuantloadError` becomes a message.
        render: prints it for people.
        as_json: print it as JSON instead.

    Raises:
        typer.Exit: always; with 1 where there is an error or a problem.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            report = gather()
    except QuantloadError as error:
        if as_json:
            _print_json({"error": {"type": type(error).__name__, "message": str(error)}})
        else:
            typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        _print_json(report.as_json())
    else:
        render(report, console())
    raise typer.Exit(1 if report.problems else 0)


def _print_json(content: dict[str, object]) -> None:
    head = {"schema": SCHEMA, "quantload": __version__}
    typer.echo(json.dumps({**head, **content}, indent=2))


def console() -> Console:
    """Where tables go; wide where nobody's window limits them."""
    from rich.console import Console

    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=WIDTH_OF_A_PIPE if wide else None, highlight=False)


def clean(text: str) -> str:
    """Text that a stranger wrote, without what a terminal would act on."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def size(nbytes: float) -> str:
    """Bytes for people, in powers of 1000 as disks and `GB` have them."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.4g} TB"


def count(number: float) -> str:
    """A number of parameters for people."""
    value = float(number)
    for unit in ("", "k", "M", "G"):
        if value < 1000:
            return f"{value:.3g}{' ' if unit else ''}{unit}"
        value /= 1000
    return f"{value:.4g} T"
