"""The command `quantload`: what is installed, what a checkpoint is, what is wrong here."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process; never returns, but for `run`.

    Exit status: 0 fine, 1 a problem was found, 2 the command was not understood; of
    `run`, that of the script.
    """
    from quantload.cli.app import app
    from quantload.cli.program import Program

    program = None
    try:
        app(prog_name="quantload")
    except Program as found:
        program = found
    if program is not None:
        program.start()
