"""The command `quantload`: what is installed, what a checkpoint is, what is wrong here."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process; never returns.

    Exit status: 0 fine, 1 a problem was found, 2 the command was not understood.
    """
    from quantload.cli.app import app

    app(prog_name="quantload")
