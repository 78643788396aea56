"""`quantload run`: a script, as Python runs it, with the bridge into `transformers` enabled."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from quantload.errors import ConfigError
from quantload.integrations.transformers.bridge import enable_transformers


class Program(BaseException):
    """A script or module to run as `__main__` once the command line has been dealt with.

    Raised by the command, so that what the script raises passes through no other hands.
    The bridge is enabled from now on, and in this process alone: one that the script
    starts has to be started this way too.

    Args:
        path: of the script, or name of the module.
        arguments: its command line.
        module: whether `path` names a module, as for `python -m`.
        only: see `enable_transformers`.
        keep: see `enable_transformers`.

    Raises:
        ConfigError: there is no such script.
        MissingRequirementError, UnknownMethodError: see `enable_transformers`.
    """

    def __init__(
        self,
        path: str,
        arguments: Sequence[str],
        *,
        module: bool = False,
        only: Sequence[str] | None = None,
        keep: Sequence[str] | None = None,
    ) -> None:
        super().__init__(path)
        if not module and not Path(path).exists():
            raise ConfigError(f"{path}: no such script", value=path)
        enable_transformers(only or None, keep or None)
        self.path = path
        self.arguments = list(arguments)
        self.module = module

    def start(self) -> None:
        """Run it; what it raises, and its exit status, is its own."""
        sys.argv = [self.path, *self.arguments]
        if self.module:
            sys.path.insert(0, os.getcwd())  # noqa: PTH109  text, as `python -m` has it there
            runpy.run_module(self.path, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(self.path).resolve().parent))
            runpy.run_path(self.path, run_name="__main__")
